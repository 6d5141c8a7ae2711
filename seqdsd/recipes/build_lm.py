"""``seqdsd build-lm``: an n-gram language model of transcripts or other text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from seqdsd.recipes.command import run_command
from seqdsd.records import write_atomically
from seqdsd.text import ENGLISH_ALPHABET, normalise_transcript
from seqdsd.text.ngram import estimate_ngrams

PROG = "seqdsd build-lm"
_DESCRIPTION = """Make a word n-gram language model (ARPA) for --lm of seqdsd evaluate and seqdsd transcribe.

Text comes from manifests (.jsonl) or from files with a sentence a line, which are made into words of a-z and apostrophe
as transcripts are. Never take dev or test transcripts. For more text than fits in memory use KenLM's lmplz.

Examples:
  seqdsd build-lm data/an4/train.jsonl --out an4.arpa
  seqdsd build-lm data/librispeech/train.jsonl books.txt --out librispeech.arpa --order 4
"""


@dataclass(frozen=True)
class BuildLM:
    """Of which text, and into which file."""

    text: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TEXT ...")]
    """Manifests (.jsonl), whose transcripts are taken as they are, and text files with a sentence a line."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The ARPA file."""
    order: int = 3
    """Longest n-gram, in words."""

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("name at least one file of text")


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd build-lm``."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            BuildLM, prog=PROG, description=_DESCRIPTION, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
        sentences = [sentence for path in asked.text for sentence in read_sentences(path)]
        model = estimate_ngrams(sentences, order=asked.order)
        write_atomically(asked.out, model.arpa())
        counts = ", ".join(f"{len(probs):,} {n}-grams" for n, probs in enumerate(model.log10_probs, start=1))
        Console().print(
            f"{asked.out}: {counts} of {len(sentences):,} sentences", highlight=False, soft_wrap=True
        )

    run_command(parse_and_run)


def read_sentences(path: Path) -> Iterator[str]:
    """The transcripts of a manifest as they are, or a text file's lines as transcripts are written.

    Raises:
        ValueError: If a line of a manifest has no text; it is named.
        OSError, UnicodeDecodeError: If the file cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if path.suffix != ".jsonl":
                yield normalise_transcript(line, alphabet=ENGLISH_ALPHABET).text
            elif line.strip():
                yield _transcript(line, f"{path}:{number}")


def _transcript(line: str, where: str) -> str:
    try:
        return str(json.loads(line)["text"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{where}: no transcript ({error!r}); write one JSON object a line, with a text"
        ) from error
