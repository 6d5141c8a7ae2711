"""The command line of every recipe: --config, --resume, --dry-run and the recipe's own settings; one way to fail."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from seqdsd.config import ConfigError, kinds, of_kind, read_config, read_provenance
from seqdsd.data import OnBadData
from seqdsd.engine import StopRequested, TrainingDiverged, is_first_process, is_lost_company, leave_company
from seqdsd.printable import printable_lines
from seqdsd.recipes.fitting import Fitted, Planned, show_choices
from seqdsd.recipes.start_weights import with_network_of
from seqdsd.records import RunFolder, checked_provenance

ConfigT = TypeVar("ConfigT")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Invocation:
    """What is asked of a run, as opposed to what the run is."""

    config: Path | None = None
    """TOML file with settings; what it leaves out is as in the paper. The command line overrides it."""
    preset: Literal["auto", "paper"] = "auto"
    """What the settings begin from without --config. auto: recognisers measure the corpus that --data names, and say
    what they choose for it and why; where no data is named, settings made for the embedded corpus. paper: the paper's,
    as the defaults of the settings below are documented."""
    resume: bool = False
    """Go on where the run in --out stopped; start it where there is none; return at once where it is complete.
    Without --config and --preset paper the settings are that run's own."""
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
    fitted: Annotated[Fitted | None, tyro.conf.Suppress, tyro.conf.Fixed] = None
    """What the settings lie on, where they were chosen for the corpus."""


def parse_command(
    config_class: type[ConfigT],
    *,
    prog: str,
    description: str,
    without_data: Callable[[], ConfigT],
    with_data: Callable[[Path, OnBadData, Planned], Fitted] | None = None,
    chosen_before: Path | None = None,
    recipe: str | None = None,
    argv: Sequence[str] | None = None,
) -> Command[ConfigT]:
    """Parse a recipe's command line; the flags lie on settings from elsewhere.

    From the file that ``--config`` names, on the class's defaults; without it, those of the run that is gone on with,
    if there is one; else, by ``--preset``, those that fit the corpus, or the class's defaults. Where the weights of a
    run are given (``--start-weights``, a classifier's ``--weights``), its network's are chosen by none of these but the
    file and the paper.

    Where a setting is one of several classes (``seqdsd.config.kinds``), the flags are those of the kind asked for.

    Args:
        config_class: Frozen dataclass of the recipe's settings; its docstrings are the help.
        prog: How the recipe is started.
        description: For ``--help``.
        without_data: Settings to begin with where neither ``--data`` nor the file names a corpus.
        with_data: Settings that fit the corpus in a folder and a training of so many rounds and epochs; by default the
            class's own.
        chosen_before: File of those that ``with_data`` chose once, read in its place: the corpus may have changed.
        recipe: Its name: a run of another is not gone on with.
        argv: For tests; the process's own by default.

    Raises:
        ConfigError: If the file cannot be used.
        ValueError: If the corpus cannot be.
        SystemExit: After ``--help`` or a wrong flag, as argparse does.
    """
    first_look = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    # A flag without its value is refused later, by what knows all flags.
    for flag in ("--config", "--data", "--out", "--weights"):
        first_look.add_argument(flag, type=Path, nargs="?")
    first_look.add_argument("--start-weights", "--start_weights", type=Path, nargs="?")
    first_look.add_argument("--iters", nargs="?")
    first_look.add_argument("--epochs", nargs="*", default=[])
    first_look.add_argument("--batches.max-batch-seconds", "--batches.max_batch_seconds", nargs="?")
    first_look.add_argument("--features.kind", nargs="?")
    first_look.add_argument("--features.highest-hz", "--features.highest_hz", nargs="?")
    first_look.add_argument("--preset", nargs="?", default="auto")
    first_look.add_argument("--on-bad-data", "--on_bad_data", nargs="?", default="error")
    first_look.add_argument("--resume", action="store_true")
    first_look.add_argument("-h", "--help", action="store_true")
    choices = kinds(config_class)
    for name in choices:
        first_look.add_argument(f"--{name}.kind", dest=name, nargs="?")
    seen, _ = first_look.parse_known_args(_apart(sys.argv[1:] if argv is None else argv, "--epochs"))
    base, fitted, own = config_class(), None, None
    if seen.config:
        base = read_config(seen.config, base)
        # A run's own file is whole: what it does not set, as of an earlier version, is the class's.
        is_whole = bool(read_provenance(seen.config))
        if seen.data is None and getattr(base, "data", None) is None and not is_whole:
            base = read_config(seen.config, without_data())
    elif seen.preset == "paper":
        pass
    elif seen.resume and (own := _own_settings(seen.out, base, recipe)):
        base = own
    elif seen.data is None:
        base = without_data()
    elif chosen_before:
        base = read_config(chosen_before, base)
        log.info("going on with the settings in %s, which were chosen for the corpus", chosen_before)
    elif with_data:
        with suppress(ValueError, OSError) if seen.help else nullcontext():  # which needs no corpus
            fitted = with_data(seen.data, seen.on_bad_data, _planned(seen))
            base = fitted.settings
    given = seen.start_weights or seen.weights
    if given and not (seen.config or own or seen.preset == "paper"):
        base = with_network_of(base, given, recipe)
    for name, classes in choices.items():
        if kind := getattr(seen, name):
            base = replace(base, **{name: of_kind(getattr(base, name), kind, classes, f"--{name}.")})  # type: ignore[type-var]
    return tyro.cli(
        Command[config_class],  # type: ignore[valid-type]
        prog=prog,
        description=description,
        default=Command(Invocation(), base, fitted),
        args=argv,
        config=(tyro.conf.AvoidSubcommands,),
    )


def _apart(argv: Sequence[str], flag: str) -> list[str]:
    """``--epochs=20 5 5``, which tyro takes for three values and argparse for one, as both take it."""
    return [part for one in argv for part in (one.split("=", 1) if one.startswith(f"{flag}=") else [one])]


def _planned(seen: argparse.Namespace) -> Planned:
    """What the flags set of it; those that are wrong are refused later, by all of them."""
    try:
        batch_seconds = getattr(seen, "batches.max_batch_seconds")
        highest_hz = getattr(seen, "features.highest_hz")
        return Planned(
            iters=None if seen.iters is None else int(seen.iters),
            epochs=tuple(map(int, seen.epochs)),
            first_is_given=seen.start_weights is not None,
            batch_seconds=None if batch_seconds is None else float(batch_seconds),
            optimizer=getattr(seen, "optimizer", None),
            features=getattr(seen, "features.kind"),
            highest_hz=None if highest_hz is None else float(highest_hz),
        )
    except ValueError:
        return Planned()


def _own_settings(out: Path | None, base: ConfigT, recipe: str | None) -> ConfigT | None:
    """Those of the run in a folder, by default the recipe's, if there is one.

    Raises:
        ConfigError: If its settings cannot be read, or are another recipe's.
        RunFolderError: If another version of seqdsd has written the folder.
    """
    folder = RunFolder(out or base.out)  # type: ignore[attr-defined]  # every recipe's settings have one
    if not folder.config.is_file():
        return None
    provenance = checked_provenance(read_provenance(folder.config), folder.config)
    its_recipe = provenance.get("recipe", recipe)
    if recipe and its_recipe != recipe:
        raise ConfigError(
            f"{folder.path}: a run of {its_recipe!r}, with which {recipe!r} cannot go on; take another --out"
        )
    own = read_config(folder.config, base)
    log.info("going on with the settings of the run in %s", folder.path)
    return replace(own, out=folder.path)  # type: ignore[type-var]  # where it lies now


def run_recipe(
    recipe: str,
    config_class: type[ConfigT],
    *,
    description: str,
    without_data: Callable[[], ConfigT],
    with_data: Callable[[Path, OnBadData, Planned], Fitted] | None = None,
    run: Callable[..., Any],
    dry_run: Callable[[ConfigT], None],
    argv: Sequence[str] | None,
) -> None:
    """What ``python -m seqdsd.recipes.NAME`` does: parse its command line and run, or print the plan.

    Args:
        recipe: Its name.
        config_class: See ``parse_command``; also ``description``, ``without_data``, ``with_data``, ``argv``.
        description: See there.
        without_data: See there.
        with_data: See there.
        run: Takes settings, ``resume`` and ``start_from``, and ``origin`` where settings were chosen for a corpus: what
            is to be noted of these.
        dry_run: Prints the plan.
        argv: See there.
    """

    def parse_and_run() -> None:
        command = parse_command(
            config_class,
            prog=f"python -m seqdsd.recipes.{recipe}",
            description=description,
            without_data=without_data,
            with_data=with_data,
            recipe=recipe,
            argv=argv,
        )
        asked, settings, chosen = command.invocation, command.settings, command.fitted
        if chosen and is_first_process():
            show_choices(chosen, settings, Console())
        if asked.dry_run:
            dry_run(settings)
        else:
            noted = {"origin": chosen.provenance(settings)} if chosen else {}
            run(settings, resume=asked.resume, start_from=asked.start_from, **noted)

    run_command(parse_and_run)


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
