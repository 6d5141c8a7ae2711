"""Ctrl-C and SIGTERM as a wish that is granted between two steps, when a checkpoint can be written."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType


class StopRequested(Exception):
    """Training stopped because the user or the cluster asked; everything is saved."""


@dataclass
class StopWish:
    """Whether someone has asked to stop."""

    requested: bool = False


@contextmanager
def stop_on_signals(said: str = "") -> Iterator[StopWish]:
    """Note the first SIGINT or SIGTERM instead of dying from it; a second one acts at once.

    ``said`` is written to stderr at once, since granting the wish may take a while.

    Outside the main thread, where Python allows no signal handlers, nothing changes.
    """
    wish = StopWish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def note(number: int, frame: FrameType | None) -> None:
        if wish.requested:
            raise KeyboardInterrupt
        wish.requested = True
        with suppress(OSError):
            os.write(2, said.encode())  # not print: the signal may have come in the middle of one

    former = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
