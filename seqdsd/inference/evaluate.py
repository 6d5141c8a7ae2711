"""``seqdsd evaluate``: what a trained network scores, by the measures of its kind of run and as its own run scores."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import tyro
from rich.console import Console

from seqdsd.engine import is_first_process
from seqdsd.inference.networks import use_of
from seqdsd.inference.scoring import PROG, Evaluate, as_json, write_hypotheses
from seqdsd.inference.trained import is_saved
from seqdsd.recipes.command import run_command

_ANY_KIND = """Score a trained network as its own run scores. A recogniser: WER and CER with their counts. A \
captioner: BLEU-1 to BLEU-4, standard and as NeuralTalk counts, CIDEr-D, ROUGE-L and perplexity. An image classifier: \
top-1 and top-5 error with their counts.

With a RUN, --help shows the further options of its kind.

Examples:
  seqdsd evaluate runs/an4-ds1
  seqdsd evaluate runs/flickr8k --beam 20
  seqdsd evaluate runs/flickr8k --help
  seqdsd evaluate an4.dsdz --data data/an4
"""


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd evaluate``."""

    def parse_and_run() -> None:
        use = use_of(_find_run(argv))
        asked = _parse(use.scoring.asked_class, use.scoring.description, argv)
        is_first = is_first_process()
        trained = use.load(asked.run, phase=asked.phase, device=asked.device, **asked.search)
        scores = use.scoring.score(trained, asked, Console(stderr=True, quiet=not is_first))
        if not is_first:  # of several processes, which have all found the same
            return
        if asked.hyps:
            write_hypotheses(asked.hyps, scores)
        command = shlex.join([*PROG.split(), *argv])
        if asked.json:
            print(as_json(scores, command))
        else:
            use.scoring.print_scores(scores, command, Console())

    run_command(parse_and_run)


def _find_run(argv: Sequence[str]) -> Path:
    """The run among the arguments, by which their meaning is decided; ends the program where help is all there is."""
    for argument in argv:
        if argument and is_saved(Path(argument)):
            return Path(argument)
    asked, _ = tyro.cli(
        Evaluate,
        prog=PROG,
        description=_ANY_KIND,
        args=argv,
        config=(tyro.conf.FlagCreatePairsOff,),
        return_unknown_args=True,
    )
    return asked.run


def _parse(asked_class: type[Evaluate], description: str, argv: Sequence[str]) -> Evaluate:
    # Alone, or the help would leave out what has been given already: RUN.
    args = ["--help"] if {"-h", "--help"} & set(argv) else argv
    return tyro.cli(
        asked_class, prog=PROG, description=description, args=args, config=(tyro.conf.FlagCreatePairsOff,)
    )
