"""``seqdsd evaluate`` for recognisers: word and character error rates with their counts, as the run itself scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seqdsd.data import Manifest, OnBadData, find_splits, is_split_folder, read_split
from seqdsd.data.synthetic import synthetic_speech
from seqdsd.inference.scoring import Evaluate, Scores, Scoring, print_facts, print_remarks, progress_bar
from seqdsd.inference.trained import TrainedRecogniser
from seqdsd.printable import printable
from seqdsd.tasks import BatchSettings, DecodingSettings, SpeechTask

_DESCRIPTION = """Score a trained recogniser: WER and CER with their counts, as its own run scores.

Examples:
  seqdsd evaluate runs/an4-ds1
  seqdsd evaluate runs/an4-ds1 --data data/an4 --phase "Dense Iter 2" --hyps hyps.jsonl
  torchrun --nproc-per-node 2 -m seqdsd.cli evaluate runs/an4-ds1
"""
_COUNTS = ("hits", "substitutions", "deletions", "insertions")


@dataclass(frozen=True)
class EvaluateSpeech(Evaluate):
    """What to score, and with which weights."""

    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """A manifest, or a folder of them; by default the data that the run was trained on."""
    split: str = "test"
    """Which manifest of a folder: SPLIT.jsonl; for test also every test_NAME.jsonl."""
    max_batch_seconds: Annotated[float | None, tyro.conf.arg(metavar="FLOAT")] = None
    """Budget of a batch in seconds of audio; by default the run's own, and the recipe's for a file."""
    num_workers: int = 0
    """Processes that read audio ahead; 0 reads in this one."""
    decoding: Annotated[DecodingSettings, tyro.conf.arg(name="")] = field(default_factory=DecodingSettings)

    @property
    def search(self) -> dict[str, Any]:
        """See there."""
        return {"decoding": self.decoding}


def score_speech(trained: TrainedRecogniser, asked: EvaluateSpeech, console: Console) -> Scores:
    """Score a recogniser on every manifest asked for, by the decoding that it was loaded with.

    Raises:
        ValueError: For a manifest or an utterance that cannot be used; the message says what to do.
    """
    data = asked.data or trained.saved.data(trained.config) or synthetic_speech(trained.config.corpus.spec)
    on_bad_data = asked.on_bad_data or trained.config.on_bad_data
    manifests = _read_manifests(data, asked.split, on_bad_data=on_bad_data)
    task = SpeechTask(
        model=trained.model.module,
        tokenizer=trained.tokenizer,
        corpus=manifests,
        batches_settings=_batches(asked, trained),
        features=trained.config.features,
        on_bad_data=on_bad_data,
        processes=trained.processes,
    )
    task.recogniser = trained.recogniser  # the task's own has max decoding
    evaluations = {}
    with progress_bar(console) as progress:
        for split, manifest in manifests.items():
            bar = progress.add_task(
                escape(f"{trained.phase['name']} on {split}"), total=len(manifest.utterances)
            )
            evaluations[split] = task.evaluate(
                trained.model, split, trained.device, after_batch=partial(progress.advance, bar)
            )
    return Scores(trained.phase, evaluations, task.skipped)


def print_speech_scores(scores: Scores, command: str, console: Console) -> None:
    """Print a table of rates and counts, and what they depend on."""
    table = Table("set", "rate", "%", "hits", "sub", "del", "ins", "ref", "utterances", box=box.SIMPLE)
    for column in table.columns[2:]:
        column.justify = "right"
    for split, one in scores.evaluations.items():
        words, characters = one.metrics, one.metrics["characters"]
        utterances = str(one.metrics["utterances"])
        table.add_row(
            escape(printable(split)), "WER", *_cells(words, words["wer"], words["ref_words"]), utterances
        )
        table.add_row(
            "", "CER", *_cells(characters, words["cer"], characters["ref_characters"]), "", end_section=True
        )
    console.print(table)
    print_remarks(scores, console)
    first = next(iter(scores.evaluations.values()))
    facts = {
        "phase": scores.phase["name"],
        "signature": f"{first.metrics['signature']}|{first.metrics['decoding']}",
        "command": command,
    }
    print_facts(facts, console)


def _batches(asked: EvaluateSpeech, trained: TrainedRecogniser) -> BatchSettings:
    own = trained.config.batches
    seconds = own.max_batch_seconds if asked.max_batch_seconds is None else asked.max_batch_seconds
    return replace(own, max_batch_seconds=seconds, num_workers=asked.num_workers)


def _read_manifests(data: Path, split: str, *, on_bad_data: OnBadData) -> dict[str, Manifest]:
    """The manifests to score by name: ``data`` itself, or those of a split in the folder ``data``."""
    if data.is_file() or is_split_folder(data):
        return {data.name.split(".")[0]: read_split(data, on_bad_data=on_bad_data)}
    splits = find_splits(data)
    names = [name for name in splits if name == split or (split == "test" and name.startswith("test_"))]
    if not names:
        there = ", ".join(path.name for path in splits.values()) or "no manifest at all"
        raise ValueError(
            f"{data / split}.jsonl: no such manifest (there: {there}); name one by --data or --split"
        )
    return {name: read_split(splits[name], on_bad_data=on_bad_data) for name in names}


def _cells(counts: Mapping[str, Any], rate: float, ref_length: int) -> list[str]:
    return [f"{100 * rate:.2f}", *(str(counts[name]) for name in _COUNTS), str(ref_length)]


SCORING = Scoring(EvaluateSpeech, _DESCRIPTION, score_speech, print_speech_scores)
