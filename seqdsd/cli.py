"""The ``seqdsd`` command: a table of sub-commands, nothing else. What each does lives in the module it names.

A module is imported when its command is called, so that ``seqdsd --help`` need not wait for torch.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from seqdsd import __version__

_EPILOG = """\
commands (seqdsd COMMAND --help says more):
{commands}

examples:
  seqdsd models
  seqdsd classify mnist-lenet300 digit.png
  seqdsd evaluate runs/an4-ds1 --data data/an4
  seqdsd transcribe runs/an4-ds1 recording.flac
  seqdsd caption runs/flickr8k photo.jpg
  seqdsd classify runs/cifar10-resnet20 photo.jpg
  seqdsd transcribe an4-ds2.dsdz recording.flac
  seqdsd inspect an4-ds2.dsdz
  seqdsd compare-captions runs/flickr8k
  seqdsd compress runs/an4-ds1 --out an4-ds1.dsdz
  seqdsd build-lm data/an4/train.jsonl --out an4.arpa
  seqdsd shard data/an4 shards/an4
  seqdsd tune-decoding runs/an4-ds1 --lm an4.arpa
  seqdsd table runs/an4-ds1
  seqdsd sweep recipes/an4/ds1.toml --sparsities 0.25 0.5 0.8
  seqdsd compare recipes/an4/ds1.toml --seeds 0,1,2,3,4
  seqdsd retrain recipes/mnist/lenet300.toml --num-parents 10 --repeats 4 --sparsities 0.3 0.5 0.8
  seqdsd power runs/compare-ds1 --improvement 1.0
  seqdsd report runs/compare-ds1

training comes first:
  python -m seqdsd.recipes.ds1                                  a recogniser, of a small corpus made on the spot
  python -m seqdsd.recipes.ds1 --config recipes/an4/ds1.toml    AN4
  python -m seqdsd.recipes.ds2                                  the same with DeepSpeech 2
  python -m seqdsd.recipes.ds2 --data data/mine                 your own speech, by settings that fit it
  python -m seqdsd.recipes.neuraltalk                           a captioner, of a small corpus drawn on the spot
  python -m seqdsd.recipes.neuraltalk --config recipes/flickr8k/neuraltalk.toml    Flickr8k
  python -m seqdsd.recipes.vision                               a classifier, of shapes drawn on the spot
  python -m seqdsd.recipes.vision --config recipes/cifar10/resnet20.toml           CIFAR-10
"""


@dataclass(frozen=True)
class _Entry:
    module: str
    """Has ``main(argv)``."""
    summary: str


COMMANDS = {
    "build-lm": _Entry("seqdsd.inference.build_lm", "make an n-gram language model of transcripts"),
    "caption": _Entry("seqdsd.inference.caption", "say what images show, with a trained captioner"),
    "classify": _Entry(
        "seqdsd.inference.classify", "say which class images are of, with a trained classifier"
    ),
    "compare": _Entry("seqdsd.studies.compare", "train the arms of a fair comparison over several seeds"),
    "compare-captions": _Entry("seqdsd.reports.captions.page", "write a page of every phase's captions"),
    "compress": _Entry("seqdsd.inference.compress", "make one small file of a trained network"),
    "evaluate": _Entry("seqdsd.inference.evaluate", "score a trained network by the measures of its kind"),
    "export": _Entry(
        "seqdsd.inference.export", "write a trained network as ONNX or as a program of torch.export"
    ),
    "inspect": _Entry("seqdsd.inference.inspect_file", "show what a compressed network is, and its sizes"),
    "models": _Entry("seqdsd.inference.ready", "list the networks that come with the package"),
    "power": _Entry("seqdsd.reports.power", "say how many seeds or test items an improvement needs"),
    "report": _Entry(
        "seqdsd.reports.report", "write a page on runs: tables, statistics, curves, what was said"
    ),
    "retrain": _Entry(
        "seqdsd.studies.retrain", "retrain the same parents many times, with pruning and without"
    ),
    "shard": _Entry(
        "seqdsd.inference.shard", "write a speech corpus as tar shards, for one larger than a disk"
    ),
    "sweep": _Entry("seqdsd.studies.sweep", "choose sparsity and learning rates on the dev set"),
    "table": _Entry(
        "seqdsd.reports.phase_table", "print a run's phases as the paper's Tables 2 to 5 and 7 do"
    ),
    "transcribe": _Entry("seqdsd.inference.transcribe", "turn recordings of any length into text"),
    "tune-decoding": _Entry("seqdsd.inference.tune_decoding", "weigh a language model on the dev set"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of ``seqdsd`` and ``python -m seqdsd.cli``.

    Raises:
        SystemExit: 0 after ``--help`` and ``--version``, 2 for a wrong command line, 1 if the command fails, 130
            after Ctrl-C, while modules are imported too.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = _parser().parse_args(argv[:1]).command
    try:
        importlib.import_module(COMMANDS[command].module).main(argv[1:])
    except KeyboardInterrupt:
        print(f"interrupted; seqdsd {command} can be started again", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    table = COMMANDS.items()
    parser = argparse.ArgumentParser(
        prog="seqdsd",
        usage="seqdsd COMMAND [ARGUMENTS]",
        description="Use recognisers, captioners and classifiers that were trained with Dense-Sparse-Dense training.",
        epilog=_EPILOG.format(commands="\n".join(f"  {name:<18}{one.summary}" for name, one in table)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"seqdsd {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    return parser


if __name__ == "__main__":
    main()
