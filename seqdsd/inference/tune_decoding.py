"""``seqdsd tune-decoding``: how to weigh a language model, found on the dev set; the test set is never read."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from seqdsd.data import find_splits, read_split
from seqdsd.data.synthetic import synthetic_speech
from seqdsd.decode.ctc_lexicon import LexiconDecoder
from seqdsd.inference.scoring import progress_bar
from seqdsd.inference.trained import TrainedRecogniser, find_saved, load_recogniser
from seqdsd.inference.tuned_decoding import TunedWeights
from seqdsd.metrics import wer
from seqdsd.recipes.command import run_command
from seqdsd.tasks import DecodingSettings, SpeechTask
from seqdsd.tasks.decoding import digest_of, make_lexicon_decoder

PROG = "seqdsd tune-decoding"
_DESCRIPTION = """Find the weight of a language model and the bonus for each word that give the lowest WER on dev.

Every pair of the values given is tried on what the network makes of dev, which is computed once. The best pair is kept
in the run's folder, or beside a .dsdz file (of a network that comes with the package, in the current folder), where
seqdsd evaluate and seqdsd transcribe find it by the language model's contents.

Examples:
  seqdsd tune-decoding runs/an4-ds1 --lm an4.arpa
  seqdsd tune-decoding runs/an4-ds1 --lm an4.arpa --lm-weights 1 1.5 2 --word-bonuses 0 0.5
"""


@dataclass(frozen=True)
class TuneDecoding:
    """What to weigh, and which weights to try."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a training run (its --out), or a .dsdz file of a recogniser, or the name of one (seqdsd models)."""
    lm: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Word n-gram model, ARPA or KenLM's binary; seqdsd build-lm makes one."""
    words: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File with a word a line: what can be found, where the language model's file does not say its words."""
    lm_weights: Annotated[tuple[float, ...], tyro.conf.arg(metavar="W ...")] = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
    """Weights to try."""
    word_bonuses: Annotated[tuple[float, ...], tyro.conf.arg(metavar="B ...")] = (
        -1.0,
        0.0,
        1.0,
        2.0,
        3.0,
        4.0,
    )
    """Bonuses to try."""
    beam: int = 100
    """Width of the search."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Folder with dev.jsonl; by default the run's own. A file does not know where they are."""
    phase: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Name of the phase whose weights are used; by default the best on dev. A file has one."""
    device: str = "auto"
    """auto picks a GPU if there is one; or cpu, cuda, mps."""

    def __post_init__(self) -> None:
        for name in ("lm_weights", "word_bonuses"):
            if not getattr(self, name):
                raise ValueError(f"{name}: give at least one")


@dataclass(frozen=True)
class DevOutputs:
    """What the network makes of dev."""

    refs: list[str]
    log_probs: list[Float[Tensor, "_frames vocab"]]
    """Of each utterance, on the CPU."""

    def word_error_rate(self, decoder: LexiconDecoder) -> float:
        """Of a search, as a fraction."""
        hyps = [" ".join(decoder(one[None], torch.tensor([len(one)]))[0].words) for one in self.log_probs]
        return wer(self.refs, hyps).rate


def tune(asked: TuneDecoding, console: Console) -> dict[tuple[float, float], float]:
    """The WER on dev of each pair of weight and bonus.

    Raises:
        ValueError: For a run, phase, manifest or language model that cannot be used; the message says what to do.
    """
    trained = load_recogniser(asked.run, phase=asked.phase, device=asked.device)
    first = DecodingSettings(
        beam=asked.beam,
        lm=asked.lm,
        words=asked.words,
        lm_weight=asked.lm_weights[0],
        word_bonus=asked.word_bonuses[0],
    )
    decoder = make_lexicon_decoder(first, trained.tokenizer)
    outputs = _dev_outputs(trained, asked.data, console)
    pairs = [(weight, bonus) for weight in asked.lm_weights for bonus in asked.word_bonuses]
    found = {}
    with progress_bar(console) as progress:
        for weight, bonus in progress.track(pairs, description="weights on dev"):
            search = replace(first.search, lm_weight=weight, word_bonus=bonus)
            found[weight, bonus] = outputs.word_error_rate(decoder.with_search(search))
    _keep_best(found, asked, trained)
    return found


def _dev_outputs(trained: TrainedRecogniser, data: Path | None, console: Console) -> DevOutputs:
    folder = data or trained.saved.data(trained.config) or synthetic_speech(trained.config.corpus.spec)
    path = find_splits(folder).get("dev", folder / "dev.jsonl")
    dev = read_split(path, on_bad_data=trained.config.on_bad_data)
    task = SpeechTask(
        model=trained.model.module,
        tokenizer=trained.tokenizer,
        corpus={"dev": dev},
        batches_settings=replace(trained.config.batches, num_workers=0),
        features=trained.config.features,
        on_bad_data=trained.config.on_bad_data,
    )
    refs, log_probs = list[str](), list[Tensor]()
    with progress_bar(console) as progress:
        bar = progress.add_task(f"{trained.phase['name']} on dev", total=len(dev.utterances))
        for batch, outputs in task.outputs(trained.model, "dev", trained.device):
            refs += batch.texts
            rows, lengths = outputs.log_probs.cpu(), outputs.num_frames.tolist()
            log_probs += [row[:length] for row, length in zip(rows, lengths, strict=True)]
            progress.advance(bar, len(batch))
    return DevOutputs(refs, log_probs)


def _keep_best(
    found: dict[tuple[float, float], float], asked: TuneDecoding, trained: TrainedRecogniser
) -> None:
    (lm_weight, word_bonus), rate = min(found.items(), key=lambda one: one[1])
    tuned = TunedWeights(
        lm=asked.lm.name,
        lm_digest=digest_of(asked.lm),
        phase=trained.phase["name"],
        lm_weight=lm_weight,
        word_bonus=word_bonus,
        dev_wer=rate,
    )
    tuned.write(trained.saved.decoding)


def show(found: dict[tuple[float, float], float], asked: TuneDecoding, console: Console) -> None:
    """Print a table of dev WER, the best marked, and what to do next."""
    best = min(found, key=lambda pair: found[pair])
    table = Table("lm weight", *(f"bonus {bonus:g}" for bonus in asked.word_bonuses), title="dev WER, %")
    for weight in asked.lm_weights:
        rates = [100 * found[weight, bonus] for bonus in asked.word_bonuses]
        marks = [" *" if (weight, bonus) == best else "" for bonus in asked.word_bonuses]
        table.add_row(f"{weight:g}", *(f"{rate:.2f}{mark}" for rate, mark in zip(rates, marks, strict=True)))
    console.print(table)
    if edge := _at_the_edge(best, asked):
        console.print(f"the best lies at the edge of what was tried: try {edge} beyond it", style="yellow")
    phase = ["--phase", asked.phase] if asked.phase else []
    command = shlex.join(["seqdsd", "evaluate", str(asked.run), *phase, "--lm", str(asked.lm)])
    console.print(
        f"kept in {find_saved(asked.run).decoding}: --lm-weight {best[0]:g} --word-bonus {best[1]:g}; on test:\n"
        f"  {command}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _at_the_edge(best: tuple[float, float], asked: TuneDecoding) -> str:
    tried = {"--lm-weights": (best[0], asked.lm_weights), "--word-bonuses": (best[1], asked.word_bonuses)}
    return " and ".join(
        name
        for name, (value, values) in tried.items()
        if len(values) > 1 and value in (min(values), max(values))
    )


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd tune-decoding``."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            TuneDecoding,
            prog=PROG,
            description=_DESCRIPTION,
            args=argv,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        show(tune(asked, Console(stderr=True)), asked, Console())

    run_command(parse_and_run)
