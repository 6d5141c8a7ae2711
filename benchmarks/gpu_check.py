"""What has to be seen on a GPU once, in one command of a few minutes: ``benchmarks/gpu_check.sh`` starts it.

    python -m benchmarks.gpu_check --device cuda --out gpu_check.md

Each check runs in a process of its own with a time limit; one that fails, or takes too long, is a row of the table like
the others. ``--device cpu`` tries all of it at smaller sizes. Networks and memory limits are ``gpu_check_parts``'.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tyro

REPOSITORY = Path(__file__).parents[1]
SCAN = "tests/models/test_persistent_scan.py"


@dataclass(frozen=True)
class Settings:
    """Where and how much."""

    device: str = "cuda"
    """cuda, or cpu to try the script itself."""
    out: Path = Path("gpu_check.md")
    """The table."""
    work: Path | None = None
    """Folder of the runs; by default one that is deleted in the end."""
    data: Path | None = None
    """Folder with an4 and flickr8k; without it captions are of drawn scenes, and AN4 is left out."""
    minutes: float = 7.5
    """All checks together; with more, each may take longer."""
    only: tuple[str, ...] = ()
    """Names of some checks."""
    check: str | None = None
    """Run one check here, in this process: what the script starts itself."""

    @property
    def is_small(self) -> bool:
        """Whether sizes are those of a try."""
        return self.device == "cpu"


@dataclass(frozen=True)
class Row:
    """One finding."""

    check: str
    result: str
    passed: bool = True


@dataclass(frozen=True)
class Check:
    """Something to find out."""

    limit_seconds: float
    run: Callable[[Settings, Path], Iterable[Row]]
    """With the folder to work in."""


@dataclass
class Outcome:
    """The rows of a check and the time that it took."""

    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0


def call(arguments: Sequence[str]) -> str:
    """Run a command of the repository by this Python; its output, which a failure's message ends with.

    Raises:
        RuntimeError: If it fails.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},  # for the scripts of data_prep
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {_last_line(done.stdout)}")
    return done.stdout


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def run_tests(settings: Settings, work: Path) -> Iterable[Row]:
    """The tests marked ``gpu``, but that of ``SCAN``."""
    yield _tests("tests marked gpu", settings, work, ["tests", "--ignore", SCAN])


def _tests(name: str, settings: Settings, work: Path, paths: Sequence[str]) -> Row:
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *paths]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    (work / "tests.log").write_text(done.stdout + done.stderr)
    said = _last_line(done.stdout + done.stderr)
    skips = "skipped" in said
    return Row(name, said.strip("= "), done.returncode == 0 and (settings.is_small or not skips))


def run_main_job(settings: Settings, work: Path) -> Iterable[Row]:
    """DeepSpeech 1 through five phases on the embedded corpus."""
    small = ["--epochs", "1", "--hidden-size", "32"] if settings.is_small else []
    arguments = ["--iters", "2", "--device", settings.device, "--out", str(work / "ds1"), *small]
    # It is judged here and on the CPU, which may multiply bfloat16 slowly.
    arguments += ["--precision", "32-true"]
    started = time.perf_counter()
    try:
        call(["-m", "seqdsd.recipes.ds1", *arguments])
    finally:  # phases that are finished say something, too
        phases = _phases(work / "ds1")
        scores = ", ".join(f"{one['name']} {100 * one['test']['wer']:.2f} %" for one in phases)
        seconds = sum(one["train_seconds"] for one in phases)
        yield Row("ds1 --iters 2, test WER", f"{scores}; {seconds:.0f} s of training", len(phases) == 5)
    yield Row("ds1 --iters 2, corpus and all", f"{time.perf_counter() - started:.0f} s")


def _phases(run: Path) -> list[dict[str, Any]]:
    path = run / "phases.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def compare_wer(settings: Settings, work: Path) -> Iterable[Row]:
    """The main job's network, judged on the device and on the CPU."""
    yield _compare("WER, embedded corpus", settings, work, work / "ds1", [], "wer")
    if settings.data is not None:
        manifests = work / "an4"
        call(["data_prep/an4.py", str(settings.data / "an4"), str(manifests)])
        yield _compare("hypotheses, AN4", settings, work, work / "ds1", ["--data", str(manifests)], "wer")


def compare_bleu(settings: Settings, work: Path) -> Iterable[Row]:
    """A captioner, trained a little, judged on the device and on the CPU."""
    epochs, size = ("1", "32") if settings.is_small else ("3", "256")
    arguments = ["--epochs", epochs, "--hidden-size", size, "--device", settings.device]
    arguments += ["--precision", "32-true"]
    if settings.data is not None:
        flickr = work / "flickr8k"
        call(["data_prep/flickr8k.py", str(settings.data / "flickr8k"), str(flickr)])
        arguments += ["--data", str(flickr)]
        # Beside names as --features looks for them: FILE.npy, FILE_names.txt.
        features, given = work / "feats.npy", settings.data / "flickr8k"
        shutil.copyfile(given / "efficientnet_lite0_feats_f16.npy", features)
        shutil.copyfile(given / "efficientnet_lite0_feats_names.txt", work / "feats_names.txt")
        arguments += ["--features", str(features)]
    run = work / "neuraltalk"
    call(["-m", "seqdsd.recipes.neuraltalk", *arguments, "--out", str(run)])
    for beam in ("1", "5"):
        yield _compare(f"BLEU, beam {beam}", settings, work, run, ["--beam", beam], "bleu4")


def _compare(name: str, settings: Settings, work: Path, run: Path, options: Sequence[str], score: str) -> Row:
    hyps, scores = [], []
    for device in (settings.device, "cpu"):
        file = work / f"hyps-{device}.jsonl"
        said = call(
            [
                *("-m", "seqdsd.cli", "evaluate", str(run), *options),
                *("--device", device, "--hyps", str(file), "--json"),
            ]
        )
        hyps.append([json.loads(line)["hyp"] for line in file.read_text().splitlines()])
        scores.append(_find(json.JSONDecoder().raw_decode(said, said.index('{"phase"'))[0], score))
    same = sum(one == other for one, other in zip(*hyps, strict=True))
    shown = " and ".join(f"{one:.4f}" for one in scores)
    result = f"{same} of {len(hyps[0])} hypotheses are the CPU's; {score} {shown}"
    # Sums in another order may turn what two words are equally good for.
    return Row(f"{name}: {settings.device} against cpu", result, same >= 0.98 * len(hyps[0]))


def _find(of: object, name: str) -> float:
    """The first number of that name anywhere in what JSON holds."""
    if isinstance(of, dict):
        if isinstance(of.get(name), (int, float)):
            return float(of[name])
        of = list(of.values())
    found = [_find(one, name) for one in of if isinstance(one, (dict, list))] if isinstance(of, list) else []
    return next((one for one in found if one == one), float("nan"))


def kill_and_resume(settings: Settings, work: Path) -> Iterable[Row]:
    """SIGKILL after a checkpoint, ``--resume``, and the same weights as of a run that nobody killed?"""
    from seqdsd.engine import load_checkpoint

    own = ["-m", "seqdsd.recipes.ds1", "--iters", "1", "--epochs", "1", "--hidden-size", "32"]
    own += ["--checkpoint-minutes", "0", "--device", settings.device, "--precision", "32-true"]
    unbroken, killed = work / "unbroken", work / "killed"
    call([*own, "--out", str(unbroken)])
    process = subprocess.Popen(
        [sys.executable, *own, "--out", str(killed)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (killed / "checkpoints" / "last.safetensors").is_file() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    was_running = process.poll() is None
    process.kill()
    process.wait()
    call([*own, "--out", str(killed), "--resume"])
    weights = [
        load_checkpoint(run / "checkpoints" / "dense-iter-1.safetensors").tensors
        for run in (unbroken, killed)
    ]
    apart = max(float((weights[0][name] - weights[1][name]).abs().max()) for name in weights[0])
    result = "bit-identical weights" if apart == 0 else f"weights within {apart:.1e}"
    wers = " and ".join(f"{100 * _phases(run)[-1]['test']['wer']:.2f} %" for run in (unbroken, killed))
    how = "killed while it ran" if was_running else "it had ended before it was killed"
    # What a GPU's sums may differ by is not known yet: there the row says it, and is no judgement.
    is_same = apart == 0 or not settings.is_small
    yield Row(
        "killed by SIGKILL, then --resume", f"{result}; test WER {wers}; {how}", was_running and is_same
    )


def time_steps(settings: Settings, work: Path) -> Iterable[Row]:
    """In single precision."""
    from benchmarks.gpu_check_parts import speed_rows

    yield from (Row(*one) for one in speed_rows(settings.device, "float32", small=settings.is_small))


def time_steps_in_bfloat16(settings: Settings, work: Path) -> Iterable[Row]:
    """Under autocast."""
    from benchmarks.gpu_check_parts import speed_rows

    yield from (Row(*one) for one in speed_rows(settings.device, "bfloat16", small=settings.is_small))


def try_scan(settings: Settings, work: Path) -> Iterable[Row]:
    """The recurrence as one launch: what it is built with, its tests, then its speed."""
    from benchmarks.gpu_check_parts import scan_rows

    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    has_headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    found = f"compiler: {compiler or 'none'}; Python.h: {'there' if has_headers else 'not there'}"
    yield Row("what Triton builds its launcher with", found, bool(compiler) and has_headers)
    yield _tests("tests of the recurrence in one launch", settings, work, [SCAN])
    if not settings.is_small:  # on a CPU both are the same
        yield from (Row(*one) for one in scan_rows(settings.device, small=settings.is_small))


def time_masks(settings: Settings, work: Path) -> Iterable[Row]:
    """At the size of DeepSpeech 2."""
    from benchmarks.gpu_check_parts import mask_rows

    yield from (Row(*one) for one in mask_rows(settings.device, units=128 if settings.is_small else 1760))


def time_jobs(settings: Settings, work: Path) -> Iterable[Row]:
    """Short runs of a comparison, so many at a time: what ``--jobs`` should be on one device."""
    sizes = ["--epochs", "1", "--device", settings.device, "--precision", "32-true"]
    seeds = "0,1" if settings.is_small else "0,1,2,3"
    if settings.is_small:
        utterances = {"train": "40", "dev": "8", "test": "8"}
        sizes += [one for name, of in utterances.items() for one in (f"--corpus.{name}-utterances", of)]
    seconds: dict[int, float] = {}
    call(["-m", "seqdsd.recipes.ds1", "--dry-run", *sizes])  # makes the corpus
    for jobs in (1, 2) if settings.is_small else (1, 2, 4):
        study = ["--seeds", seeds, "--arms", "baseline", "--iters", "1", "--out", str(work / f"jobs-{jobs}")]
        started = time.perf_counter()
        call(["-m", "seqdsd.cli", "compare", "ds1", *study, "--jobs", str(jobs), "--", *sizes])
        seconds[jobs] = time.perf_counter() - started
        result = f"{seconds[jobs]:.0f} s, {seconds[1] / seconds[jobs]:.2f} times as fast as one at a time"
        yield Row(f"runs of seeds {seeds}, --jobs {jobs}", result)


CHECKS = {
    "tests": Check(120, run_tests),
    "scan": Check(120, try_scan),  # early, for it has never run; killed at its limit it holds nobody up
    "masks": Check(40, time_masks),
    "steps": Check(90, time_steps),
    "bfloat16": Check(60, time_steps_in_bfloat16),
    "main-job": Check(200, run_main_job),
    "wer": Check(60, compare_wer),
    "bleu": Check(90, compare_bleu),
    "resume": Check(90, kill_and_resume),
    "jobs": Check(150, time_jobs),
}


def run_here(name: str, settings: Settings, work: Path, checks: dict[str, Check] = CHECKS) -> list[Row]:
    """All rows of a check; those that come before it fails, and one that says how. Each is written as it comes."""
    rows: list[Row] = []

    def add(row: Row) -> None:
        rows.append(row)
        (work / f"{name}.json").write_text(json.dumps([asdict(one) for one in rows]))

    try:
        for row in checks[name].run(settings, work):
            add(row)
    except Exception as error:  # whatever it is: it is what the table is for
        add(Row(name, f"{type(error).__name__}: {_last_line(str(error))}", passed=False))
    return rows


def run_apart(name: str, settings: Settings, work: Path, limit_seconds: float) -> Outcome:
    """A check in a process of its own; it and all that it has started are killed at the limit."""
    file = work / f"{name}.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--check", name, "--device", settings.device]
    command += ["--work", str(work), *(("--data", str(settings.data.resolve())) if settings.data else ())]
    started = time.perf_counter()
    with (work / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            process.wait(timeout=max(1.0, limit_seconds))
            problem = f"ended with {process.returncode}" if process.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"not done within {limit_seconds:.0f} s"
        finally:  # also where this process is told to end
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.perf_counter() - started
    rows = [Row(**row) for row in json.loads(file.read_text())] if file.is_file() else []
    if problem or not rows:
        said = _last_line((work / f"{name}.log").read_text())
        rows.append(Row(name, f"{problem or 'found nothing'}; its last line: {said}", passed=False))
    return Outcome(rows, seconds)


def markdown(outcomes: dict[str, Outcome], *, title: str) -> str:
    """The table: a row a finding; a check's time stands beside its first."""
    lines = [title, "", "| check | result | time | pass/fail |", "|---|---|--:|---|"]
    for outcome in outcomes.values():
        for place, row in enumerate(outcome.rows):
            seconds = "" if place else f"{outcome.seconds:.0f} s"
            cells = [one.replace("|", "/").replace("\n", " ") for one in (row.check, row.result)]
            lines.append(f"| {cells[0]} | {cells[1]} | {seconds} | {'pass' if row.passed else '**fail**'} |")
    return "\n".join(lines) + "\n"


def run_all(settings: Settings, work: Path) -> bool:
    """Write the table after every check, print it in the end; whether all passed."""
    deadline, outcomes = time.monotonic() + 60 * settings.minutes, {}
    for name in settings.only or CHECKS:
        limit = min(CHECKS[name].limit_seconds * max(1, settings.minutes / 7.5), deadline - time.monotonic())
        if limit < 5:
            outcomes[name] = Outcome([Row(name, "not begun: no time left", passed=False)])
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        outcomes[name] = run_apart(name, settings, work, limit)
        settings.out.write_text(markdown(outcomes, title=_title(settings)))
    settings.out.write_text(table := markdown(outcomes, title=_title(settings)))
    print(table)
    return all(row.passed for one in outcomes.values() for row in one.rows)


def _title(settings: Settings) -> str:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() and not settings.is_small else "CPU"
    return f"{time.strftime('%Y-%m-%d')}, {name}, torch {torch.__version__}, Python {sys.version.split()[0]}"


def main(settings: Settings) -> int:
    """0 where every check has passed."""
    if settings.check is not None:
        assert settings.work is not None
        run_here(settings.check, settings, settings.work)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as temporary:
        work = (settings.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        return 0 if run_all(settings, work) else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
