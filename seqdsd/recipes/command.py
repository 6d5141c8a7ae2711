"""The command line of every recipe: --config, --resume, --dry-run and the recipe's own settings; one way to fail."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from seqdsd.config import kinds, of_kind, read_config, read_provenance
from seqdsd.engine import StopRequested, TrainingDiverged, is_first_process, is_lost_company, leave_company
from seqdsd.printable import printable_lines

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class Invocation:
    """What is asked of a run, as opposed to what the run is."""

    config: Path | None = None
    """TOML file with settings; the command line overrides it."""
    resume: bool = False
    """Go on where the run in --out stopped; start it where there is none; return at once where it is complete."""
    start_from: Path | None = None
    """Folder of a run with the same settings and seed: the leading phases that both have in common are taken over from
    it, where they are finished, not trained again."""
    dry_run: bool = False
    """Print network, pruning plan and schedule; train nothing."""


@dataclass(frozen=True)
class Command(Generic[ConfigT]):
    """A parsed command line."""

    invocation: Annotated[Invocation, tyro.conf.arg(name="")]
    settings: Annotated[ConfigT, tyro.conf.arg(name="")]


def parse_command(
    config_class: type[ConfigT],
    *,
    prog: str,
    description: str,
    without_data: Callable[[], ConfigT],
    argv: Sequence[str] | None = None,
) -> Command[ConfigT]:
    """Parse a recipe's command line; settings come from the class's defaults < the file < the command line.

    Where a setting is one of several classes (``seqdsd.config.kinds``), the flags are those of the kind asked for.

    Args:
        config_class: Frozen dataclass of the recipe's settings; its docstrings are the help.
        prog: How the recipe is started.
        description: For ``--help``.
        without_data: Settings to begin with where neither ``--data`` nor the file names a corpus.
        argv: For tests; the process's own by default.

    Raises:
        ConfigError: If the file cannot be used.
        SystemExit: After ``--help`` or a wrong flag, as argparse does.
    """
    first_look = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first_look.add_argument("--config", type=Path)
    first_look.add_argument("--data")
    choices = kinds(config_class)
    for name in choices:
        first_look.add_argument(f"--{name}.kind", dest=name)
    seen, _ = first_look.parse_known_args(argv)
    base = config_class()
    if seen.config:
        base = read_config(seen.config, base)
    # A run's own file is whole: what it does not set, as of an earlier version, is the class's.
    is_whole = seen.config is not None and bool(read_provenance(seen.config))
    if seen.data is None and getattr(base, "data", None) is None and not is_whole:
        base = read_config(seen.config, without_data()) if seen.config else without_data()
    for name, classes in choices.items():
        if kind := getattr(seen, name):
            base = replace(base, **{name: of_kind(getattr(base, name), kind, classes, f"--{name}.")})  # type: ignore[type-var]
    return tyro.cli(
        Command[config_class],  # type: ignore[valid-type]
        prog=prog,
        description=description,
        default=Command(Invocation(), base),
        args=argv,
        config=(tyro.conf.AvoidSubcommands,),
    )


class _PrintableFormatter(logging.Formatter):
    """Messages quote what stands in files."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def run_command(main: Callable[[], None]) -> None:
    """Run ``main``; what a user can mend is shown as one message without a traceback.

    Exit status: 1 after bad input, a diverged run or another process's end, 130 after Ctrl-C.
    """
    handler = RichHandler(console=Console(stderr=True), show_path=False, show_time=False)
    handler.setFormatter(_PrintableFormatter())
    logging.basicConfig(
        level=logging.INFO if is_first_process() else logging.ERROR,  # the others would say the same again
        handlers=[handler],
    )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # which precision, how many processes
    console = Console(stderr=True)
    try:
        main()
        leave_company()
    except (ValueError, OSError, TrainingDiverged) as error:
        message = escape(printable_lines(_said(error)))
        console.print("[bold red]error:[/bold red]", message, highlight=False, soft_wrap=True)
        sys.exit(1)
    except RuntimeError as error:
        if not is_lost_company(error):
            raise
        console.print(
            "[bold red]error:[/bold red] another process of this run has ended; it says why. What the last checkpoint "
            "holds is kept (--resume, with as many processes or others)",
            soft_wrap=True,
        )
        sys.exit(1)
    except StopRequested as stopped:
        console.print(str(stopped), highlight=False, markup=False, soft_wrap=True)
        sys.exit(130)
    except KeyboardInterrupt:
        console.print("interrupted; of a training run, what the last checkpoint holds is kept (--resume)")
        sys.exit(130)


def _said(error: Exception) -> str:
    """What went wrong; the system does not name the file that a full disk kept it from writing to."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        return f"{error.strerror}, where the output goes; make room, or write to another place"
    return str(error)
