"""Processes forked from one that has imported torch, which takes an interpreter seconds, and ``torchrun`` more."""

import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch import multiprocessing

from seqdsd.studies import processes


def environments(count: int) -> list[dict[str, str]]:
    """What ``torchrun`` would tell each of so many processes of the others."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    names = {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "GROUP_RANK": 0,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    ranks = [names | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
    return [{name: str(value) for name, value in one.items()} for one in ranks]


def run_together(
    count: int, function: Callable[..., None], *arguments: object, seconds: float = 200, threads: int = 1
) -> None:
    """Call a module's function in so many processes, each with so many threads.

    An error in one of them is raised here; those that hang are killed, and fail the test.
    """
    _forkserver()
    told = [_ours() | one for one in environments(count)]
    running = multiprocessing.start_processes(
        _one,
        args=(told, threads, pickle.dumps((function, arguments))),
        nprocs=count,
        join=False,
        start_method="forkserver",
    )
    until = time.monotonic() + seconds
    try:
        while not running.join(timeout=max(0, until - time.monotonic())):
            assert time.monotonic() < until, f"one of {count} processes hangs"
    finally:
        for process in running.processes:
            process.kill()


def fork(log: Path, function: Callable[..., None], *arguments: object) -> BaseProcess:
    """Call a module's function in a process that leads a group, with one thread; what it says is added to ``log``."""
    call = pickle.dumps((function, arguments))
    process = _forkserver().Process(target=_leader, args=(log.absolute(), _ours(), call))
    process.start()
    return process


def _forkserver() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seqdsd.recipes.ds1"])  # as for others' runs
    processes._start_server()  # which they are forked from, too
    return context


def _ours() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _one(rank: int, told: list[Mapping[str, str]], threads: int, call: bytes) -> None:
    _called(told[rank], threads, call)


def _leader(log: Path, environment: Mapping[str, str], call: bytes) -> None:
    os.setsid()
    with log.open("ab") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
    _called(environment, 1, call)


def _called(environment: Mapping[str, str], threads: int, call: bytes) -> None:
    """In the forked process, whose environment is else the server's, of when it was started; its signals are blocked.

    The function's module is imported once this is set.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    function, arguments = pickle.loads(call)
    function(*arguments)
