"""``seqdsd build-lm``: an n-gram language model of transcripts or other text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from seqdsd.data.lhotse import is_cut
from seqdsd.data.manifest import check_length, parse_line, read_lines
from seqdsd.data.shards import INDEX_NAME, is_utterance
from seqdsd.printable import printable
from seqdsd.recipes.command import run_command
from seqdsd.records import write_atomically
from seqdsd.text import ENGLISH_ALPHABET, normalise_transcript
from seqdsd.text.ngram import MARKS, estimate_ngrams

PROG = "seqdsd build-lm"
_DESCRIPTION = """Make a word n-gram language model (ARPA) for --lm of seqdsd evaluate and seqdsd transcribe.

Text comes from manifests (.jsonl, .jsonl.gz; NeMo's, Lhotse's and shards' indices, too) or from files with a sentence
a line, whose case, accents and punctuation are taken away as in transcripts. Write numbers out as words first: digits
stay, and words with them are never found. Never take dev or test transcripts. For more text than fits in memory use
KenLM's lmplz.

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
            printable(f"{asked.out}: {counts} of {len(sentences):,} sentences"),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )

    run_command(parse_and_run)


def read_sentences(path: Path) -> Iterator[str]:
    """The transcripts of a manifest as they are, or a text file's lines as transcripts are written.

    Raises:
        ValueError: If the file or a line of it cannot be used; the message names it.
    """
    is_manifest = ".jsonl" in path.suffixes
    for number, line in read_lines(path):
        if is_manifest:
            entry = parse_line(line, path, number)
            if path.name == INDEX_NAME and not is_utterance(entry):
                continue
            sentence = _transcript(entry, f"{path}:{number}")
        else:
            check_length(line, f"{path}:{number}")
            try:
                sentence = normalise_transcript(line.decode("utf-8"), alphabet=ENGLISH_ALPHABET).text
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: not valid UTF-8. Save the text as UTF-8.") from error
        if marks := MARKS.intersection(sentence.split()):
            raise ValueError(
                f"{path}:{number}: {marks.pop()} is a mark of the ARPA format, not a word; take it out"
            )
        yield sentence


def _transcript(entry: Mapping[str, Any], where: str) -> str:
    """The text of a manifest's line; of one of Lhotse's cuts, that of its supervisions."""
    parts: Any = entry.get("supervisions") if is_cut(entry) else [entry]
    are_objects = isinstance(parts, list) and all(isinstance(part, dict) for part in parts)
    texts: list[Any] = [part.get("text") for part in parts] if are_objects else []
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{where}: no transcript; every line needs a text")
    return " ".join(texts)
