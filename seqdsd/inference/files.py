"""What commands that work through many files have in common: finding the files, and a bar that shows how far it is."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

QUIET_UNTIL_SECONDS = 2.0
"""The progress bar appears only after this time."""


def find_files(paths: Iterable[Path], *, suffixes: Sequence[str], kind: str) -> list[Path]:
    """The files named, whatever they are called, and those below the folders named, sorted within a folder.

    Args:
        paths: Files and folders.
        suffixes: What the names of files below a folder end in, in lower case; theirs may be in upper.
        kind: What they are, for the message.

    Raises:
        ValueError: If a folder holds none.
    """
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = (one for one in path.rglob("*") if one.suffix.lower() in suffixes)
        below = sorted(one for one in found if one.is_file())
        if not below:
            raise ValueError(f"{path}: no {kind} below this folder ({', '.join(suffixes)})")
        files += below
    return files


@contextmanager
def late_progress(total: Callable[[], float | int]) -> Iterator[Callable[[float | int], None]]:
    """A bar of the work done, on stderr: where that is a terminal, and if it takes a while.

    Args:
        total: Says how much work there is; not called where there is no terminal.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda work: None
        return
    progress = Progress(
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # else text that goes to a file would land on the terminal
    )
    bar = progress.add_task("", total=total())
    started = time.monotonic()
    with ExitStack() as shown:

        def advance(work: float | int) -> None:
            progress.advance(bar, work)
            if not progress.live.is_started and time.monotonic() - started > QUIET_UNTIL_SECONDS:
                shown.enter_context(progress)

        yield advance
