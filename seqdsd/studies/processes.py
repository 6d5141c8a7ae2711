"""How a run becomes a process of its own: with a log, in a session of its own, and saving when this process ends.

A recipe's run is forked from a process that has imported the recipe: that takes seconds, as long as a phase of a small
network, and studies have hundreds of runs. Other commands are started as if they were typed. What is run, and when, is
``jobs``' business.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

_TIED_TO_PARENT = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
_HANDED_ON = (signal.SIGINT, signal.SIGTERM)


@runtime_checkable
class Running(Protocol):
    """A process that was started."""

    def poll(self) -> int | None:
        """Its exit status, below 0 where a signal ended it; None while it runs."""

    def terminate(self) -> None:
        """Ask it to save and end, by SIGTERM."""

    def wait(self) -> int | None:
        """Until it has ended."""


def start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Running:
    """Start a command of the Python interpreter.

    Ctrl-C in the terminal does not reach it. When this process ends, however that happens, it gets SIGTERM (on Linux).

    Args:
        command: The interpreter and its arguments; ``-m`` and a module of ``seqdsd.recipes`` are forked on Linux.
        log: File to which its output is added, under the command itself.
        environment: Its own; OMP_NUM_THREADS are the threads of torch.
    """
    with log.open("a", encoding="utf-8") as output:
        output.write(f"$ {shlex.join(['python', *command[1:]])}\n")
        output.flush()
        if sys.platform == "linux" and command[1] == "-m" and command[2].startswith("seqdsd.recipes."):
            return _Forked(command[1:], log, environment)
        return subprocess.Popen(
            _tied_to_us(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal must reach it once, through us
        )


def _tied_to_us(command: Sequence[str]) -> list[str]:
    """The command, started so that it gets SIGTERM and saves when this process ends, however that happens.

    What prctl(2) sets outlives exec, so the run need not know of it. Only Linux has it.
    """
    if sys.platform != "linux":
        return [*command]
    return [sys.executable, "-ISc", _TIED_TO_PARENT, str(os.getpid()), *command]


class _Forked:
    """A recipe's run, forked from the server of processes that Python starts for this one."""

    def __init__(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([arguments[1]])  # of the first run: a study has one recipe
        self._process = context.Process(target=_run, args=(arguments, log.absolute(), dict(environment)))
        _start_server()
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType(
            "__main__"
        )  # else each run would begin by running our script again
        try:
            self._process.start()
        finally:
            sys.modules["__main__"] = main

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode


def _start_server() -> None:
    """The process that forks, which the first run starts: without a pool of threads, which would not be forked with it.

    Ctrl-C, and a SIGTERM to the whole group (as from ``timeout``), are for us to hand on: it waits for its children.
    """
    resource_tracker.ensure_running()  # else the next line but one would, and unblock these signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = threads
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(arguments: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """In the forked process: what the interpreter would do with these arguments."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)
    with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
        for theirs, ours in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(theirs.fileno(), ours)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    gc.freeze()  # what was imported is looked through no more: a fifth of a small network's run
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    multiprocessing.set_start_method(None, force=True)  # of workers that it starts: as without us
    _, module, *argv = arguments
    sys.argv, sys.orig_argv = [module, *argv], ["python", *arguments]
    importlib.import_module(module).main(argv)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
