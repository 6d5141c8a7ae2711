"""``seqdsd evaluate``: word and character error rates of a trained recogniser, as its own run scores."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from seqdsd.data import Manifest, OnBadData, read_manifest
from seqdsd.data.synthetic import SyntheticSpeech, synthetic_speech
from seqdsd.engine import Evaluation
from seqdsd.recipes.command import run_command
from seqdsd.recipes.trained import Trained, load_trained
from seqdsd.records import RunFolder, write_json_lines
from seqdsd.tasks import BatchSettings, SpeechTask

PROG = "seqdsd evaluate"
_DESCRIPTION = """Score a trained recogniser: WER and CER with their counts, as its own run scores.

Examples:
  seqdsd evaluate runs/an4-ds1
  seqdsd evaluate runs/an4-ds1 --data data/an4 --phase "Dense Iter 2" --hyps hyps.jsonl
"""
_COUNTS = ("hits", "substitutions", "deletions", "insertions")


@dataclass(frozen=True)
class Evaluate:
    """What to score, and with which weights."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a training run (its --out)."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """A manifest, or a folder of them; by default the data that the run was trained on."""
    split: str = "test"
    """Which manifest of a folder: SPLIT.jsonl; for test also every test_NAME.jsonl."""
    phase: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the phase whose weights are used; by default the best on dev."""
    max_batch_seconds: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Budget of a batch in seconds of audio; by default the run's own."""
    num_workers: int = 0
    """Processes that read audio ahead; 0 reads in this one."""
    on_bad_data: Annotated[OnBadData | None, tyro.conf.arg(metavar="error|skip")] = None
    """Stop at an utterance that cannot be used, or skip and count it; by default as the run did."""
    device: str = "auto"
    """auto picks a GPU if there is one; or cpu, cuda, mps."""
    hyps: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write each utterance here: one JSON object a line with split, id, ref and hyp."""
    json: bool = False
    """Print one JSON object instead of a table."""


@dataclass(frozen=True)
class Scores:
    """What an evaluation found: one ``Evaluation`` a split, and with which weights."""

    trained: Trained
    evaluations: Mapping[str, Evaluation]
    skipped: Mapping[str, str]


def evaluate(asked: Evaluate, console: Console | None = None) -> Scores:
    """Load a phase and score it on every manifest asked for.

    Raises:
        ValueError: For a run, phase, manifest or utterance that cannot be used; the message says what to do.
    """
    console = console or Console(stderr=True)
    trained = load_trained(RunFolder(asked.run), phase=asked.phase, device=asked.device)
    data = asked.data or trained.config.data or synthetic_speech(SyntheticSpeech())
    on_bad_data = asked.on_bad_data or trained.config.on_bad_data
    manifests = _read_manifests(data, asked.split, on_bad_data=on_bad_data)
    task = SpeechTask(
        model=trained.model.module,
        tokenizer=trained.tokenizer,
        corpus=manifests,
        batches_settings=_batches(asked, trained),
        on_bad_data=on_bad_data,
    )
    evaluations = {}
    with _progress(console) as progress:
        for split, manifest in manifests.items():
            bar = progress.add_task(f"{trained.phase['name']} on {split}", total=len(manifest.utterances))
            evaluations[split] = task.evaluate(
                trained.model, split, trained.device, after_batch=partial(progress.advance, bar)
            )
    if asked.hyps:
        rows = [{"split": split, **row} for split, one in evaluations.items() for row in one.hypotheses]
        write_json_lines(asked.hyps, rows)
    return Scores(trained, evaluations, task.skipped)


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd evaluate``."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            Evaluate, prog=PROG, description=_DESCRIPTION, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
        scores = evaluate(asked)
        command = shlex.join([*PROG.split(), *argv])
        if asked.json:
            print(json.dumps(_as_object(scores, command), ensure_ascii=False))
        else:
            _print(scores, command, Console())

    run_command(parse_and_run)


def _progress(console: Console) -> Progress:
    return Progress(
        *Progress.get_default_columns(), console=console, transient=True, disable=not console.is_terminal
    )


def _batches(asked: Evaluate, trained: Trained) -> BatchSettings:
    own = trained.config.batches
    seconds = own.max_batch_seconds if asked.max_batch_seconds is None else asked.max_batch_seconds
    return replace(own, max_batch_seconds=seconds, num_workers=asked.num_workers)


def _read_manifests(data: Path, split: str, *, on_bad_data: OnBadData) -> dict[str, Manifest]:
    """The manifests to score by name: ``data`` itself, or those of a split in the folder ``data``."""
    paths = [path for path in (data, data / f"{split}.jsonl") if path.is_file()]
    if split == "test":
        paths += sorted(data.glob("test_*.jsonl"))
    if not paths:
        there = ", ".join(path.name for path in sorted(data.glob("*.jsonl"))) or "no manifest at all"
        raise ValueError(
            f"{data / split}.jsonl: no such manifest (there: {there}); name one by --data or --split"
        )
    return {path.stem: read_manifest(path, on_bad_data=on_bad_data) for path in paths}


def _as_object(scores: Scores, command: str) -> dict[str, Any]:
    return {
        "phase": scores.trained.phase["name"],
        **{split: dict(one.metrics) for split, one in scores.evaluations.items()},
        "skipped": len(scores.skipped),
        "command": command,
    }


def _print(scores: Scores, command: str, console: Console) -> None:
    table = Table("set", "rate", "%", "hits", "sub", "del", "ins", "ref", "utterances", box=box.SIMPLE)
    for column in table.columns[2:]:
        column.justify = "right"
    for split, one in scores.evaluations.items():
        words, characters = one.metrics, one.metrics["characters"]
        utterances = str(one.metrics["utterances"])
        table.add_row(split, "WER", *_cells(words, words["wer"], words["ref_words"]), utterances)
        table.add_row(
            "", "CER", *_cells(characters, words["cer"], characters["ref_characters"]), "", end_section=True
        )
    console.print(table)
    for split, one in scores.evaluations.items():
        for note in one.notes:
            console.print(f"{split}: {note}", style="yellow", highlight=False, soft_wrap=True)
    if scores.skipped:
        console.print(f"{len(scores.skipped)} utterances skipped", style="yellow", highlight=False)
    first = next(iter(scores.evaluations.values()))
    for name, value in {
        "phase": scores.trained.phase["name"],
        "signature": f"{first.metrics['signature']}|max decoding",
        "command": command,
    }.items():
        console.print(f"{name:<10}{value}", highlight=False, markup=False, soft_wrap=True)


def _cells(counts: Mapping[str, Any], rate: float, ref_length: int) -> list[str]:
    return [f"{100 * rate:.2f}", *(str(counts[name]) for name in _COUNTS), str(ref_length)]
