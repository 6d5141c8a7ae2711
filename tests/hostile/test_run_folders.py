"""Damaged run folders, by the hundred: every command does its work or ends in one line that names a file.

A real run's files are broken in all ways that a disk, a copy or an editor can break them. What is asserted is small:
exit status 0 or 1, a message that names the folder, and never a traceback. More of them:
``SEQDSD_EXAMPLES=10000 pytest tests/hostile/test_run_folders.py``.
"""

import json
import math
import os
import re
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import save_file

from seqdsd.config import read_config
from seqdsd.engine.checkpoint import _checksum
from seqdsd.inference.trained import load_captioner, load_recogniser
from seqdsd.recipes import ds1, neuraltalk
from seqdsd.recipes.command import run_command
from seqdsd.records import RunFolder
from seqdsd.reports import report
from seqdsd.reports.captions import page
from seqdsd.reports.phase_table import main as show_table
from seqdsd.studies.jobs import Job

EXAMPLES = int(os.environ.get("SEQDSD_EXAMPLES", "250"))
QUIET = Console(quiet=True)
DEEP = 3_000
HUGE = 10**30
OTHER_VALUES = st.sampled_from(
    [None, True, [], [None], [[1]], {}, {"a": {}}, -1, 0, -0.5, 2**53, HUGE, 1e300]
    + ["", "x", "\x1b[31m\x07", "\x00", "a" * 5_000]
)


@pytest.fixture(scope="session")
def speech_run(tmp_path_factory, write_tone_corpus, tiny_ds1) -> Path:
    """A finished run on speech, trained in a second or two."""
    corpus = write_tone_corpus(tmp_path_factory.mktemp("tones"))
    folder = tmp_path_factory.mktemp("speech-runs") / "tones"
    ds1.run(tiny_ds1(corpus.folder, folder, epochs=(1, 1, 1)), console=QUIET)
    return folder


@pytest.fixture(scope="session")
def said_run(tmp_path_factory, write_shape_corpus, tiny_neuraltalk) -> Path:
    """A finished captioning run."""
    corpus = write_shape_corpus(tmp_path_factory.mktemp("captioned") / "shapes")
    folder = tmp_path_factory.mktemp("caption-runs") / "shapes"
    neuraltalk.run(tiny_neuraltalk(corpus, folder, epochs=(1, 1, 1)), console=QUIET)
    return folder


# how files are damaged


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON value, with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def changed(value: Any, draw: Callable) -> Any:
    """The value with one thing in it, or all of it, replaced, removed, or moved."""
    found = places(value)
    if not found or draw(st.integers(0, 9)) == 0:
        return draw(OTHER_VALUES)
    container, key = found[draw(st.integers(0, len(found) - 1))]
    if draw(st.booleans()):
        container[key] = draw(OTHER_VALUES)
    else:
        del container[key]
    return value


def damaged_text(text: str, draw: Callable) -> str:
    """A JSON-lines or JSON file of which one line is another."""
    lines = text.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    how = draw(st.sampled_from(["change"] * 6 + ["deep", "digits", "nan", "cut", "lost", "twice"]))
    if how == "change":
        lines[at] = json.dumps(changed(json.loads(lines[at]), draw))
    elif how == "cut":
        lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
    elif how == "lost":
        del lines[at]
    elif how == "twice":
        lines.insert(at, lines[at])
    else:
        odd = {"deep": "[" * DEEP + "]" * DEEP, "digits": "1" * 5_000, "nan": "NaN"}[how]
        lines[at] = (
            re.sub(r"(?<=[:\[ ])-?\d[\d.e+-]*", odd, lines[at], count=1) if draw(st.booleans()) else odd
        )
    return "".join(f"{line}\n" for line in lines)


def damaged_toml(text: str, draw: Callable) -> str:
    how = draw(st.sampled_from(["change"] * 5 + ["deep", "dotted", "digits", "cut", "inf"]))
    if how == "change":
        values = changed(tomllib.loads(text), draw)
        try:
            return tomli_w.dumps(values)
        except (TypeError, AttributeError):  # None, which TOML has not
            return "x = "
    if how == "cut":
        return text[: draw(st.integers(0, len(text)))]
    odd = {
        "deep": "[" * DEEP + "]" * DEEP,
        "digits": "1" * 5_000,
        "dotted": "{" + ".".join("a" * DEEP) + " = 1}",
        "inf": draw(st.sampled_from(["inf", "nan", "1e999"])),
    }[how]
    numbers = list(re.finditer(r"(?<== )[^\n]+", text))
    one = numbers[draw(st.integers(0, len(numbers) - 1))]
    return text[: one.start()] + odd + text[one.end() :]


def damage_tensors(path: Path, draw: Callable) -> None:
    """Another state or other tensors, whole as a file; the checksum is made again, so that it does not tell."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state = json.loads(file.metadata()["state"])
    name = sorted(tensors)[draw(st.integers(0, len(tensors) - 1))]
    how = draw(st.sampled_from(["state", "state", "lacks", "nan", "shape"]))
    if how == "state":
        state = changed(state, draw)
    elif how == "lacks":
        del tensors[name]
    elif how == "shape":
        tensors[name] = tensors[name].flatten()[:0]
    elif tensors[name].is_floating_point():
        tensors[name] = tensors[name] * math.nan
    said = json.dumps(state)
    save_file(tensors, path, {"state": said, "checksum": _checksum(tensors, said)})


def damage(folder: Path, draw: Callable) -> None:
    """Break one of the folder's files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    files = [path for path in files if "tb" not in path.parts]
    path = files[draw(st.integers(0, len(files) - 1))]
    how = draw(st.sampled_from(["own"] * 7 + ["deleted", "emptied", "cut", "latin", "folder", "swapped"]))
    if how == "own" and path.suffix in (".jsonl", ".json"):
        path.write_text(damaged_text(path.read_text(encoding="utf-8"), draw), encoding="utf-8")
    elif how == "own" and path.suffix == ".toml":
        path.write_text(damaged_toml(path.read_text(encoding="utf-8"), draw), encoding="utf-8")
    elif how == "own" and path.suffix == ".safetensors":
        damage_tensors(path, draw)
    elif how == "deleted":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "latin":
        path.write_bytes(b"\xff\xfe" + path.read_bytes())
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "swapped":
        shutil.copyfile(files[draw(st.integers(0, len(files) - 1))], path.with_name("swap"))
        path.with_name("swap").replace(path)
    else:
        content = path.read_bytes()
        path.write_bytes(content[: draw(st.integers(0, len(content)))])


# what is done with them


def ends_well(capsys: Any, folder: Path, work: Callable[[], Any]) -> None:
    """It works, or ends with status 1 and one message that names something in the folder."""
    capsys.readouterr()
    try:
        run_command(work)
    except SystemExit as stopped:
        said = capsys.readouterr().err
        assert stopped.code in (0, 1) and "Traceback" not in said
        assert stopped.code == 0 or str(folder) in said.replace("\n", ""), said


def damaged_examples(max_examples: int) -> Callable:
    """Hypothesis, the same each time, without shrinking: one example tells enough."""
    return settings(
        max_examples=max_examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


@damaged_examples(EXAMPLES // 20)
@given(data=st.data())
def test_a_speech_run(speech_run, tmp_path_factory, capsys, data):
    folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(speech_run, folder)
    damage(folder, data.draw)
    run, out = RunFolder(folder), folder.parent / "out"
    whole = read_config(speech_run / "config.toml", ds1.Config())
    ends_well(capsys, folder, lambda: show_table([str(folder)]))
    ends_well(capsys, folder, lambda: report.main([str(folder), "--out", str(out / "report.html")]))
    ends_well(capsys, folder, lambda: load_recogniser(run, device="cpu"))
    ends_well(capsys, folder, lambda: ds1.run(replace(whole, out=folder), resume=True, console=QUIET))
    child = replace(whole, out=out / "child", iters=0)
    ends_well(capsys, folder, lambda: ds1.run(child, start_from=folder, console=QUIET))
    assert Job("one", (), run, epochs=3).epochs_left >= 0
    shutil.rmtree(folder.parent)


@damaged_examples(EXAMPLES // 30)
@given(data=st.data())
def test_a_captioning_run(said_run, tmp_path_factory, capsys, data):
    folder = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(said_run, folder)
    damage(folder, data.draw)
    run, out = RunFolder(folder), folder.parent / "out"
    ends_well(capsys, folder, lambda: show_table([str(folder)]))
    ends_well(capsys, folder, lambda: page.main([str(folder), "--out", str(out / "captions.html")]))
    ends_well(capsys, folder, lambda: report.main([str(folder), "--out", str(out / "report.html")]))
    ends_well(capsys, folder, lambda: load_captioner(run, device="cpu"))
    shutil.rmtree(folder.parent)


def test_one_bad_folder_of_several_does_not_keep_the_others_from_their_report(speech_run, tmp_path, capsys):
    for name in ("a", "bad", "9" * 200):
        shutil.copytree(speech_run, tmp_path / "runs" / name)
    bad = RunFolder(tmp_path / "runs" / "bad")
    text = bad.config.read_text()
    for content in (
        text.replace("hidden_size = 32", f"hidden_size = {'9' * 5_000}"),
        text + "x." * 3_000 + "x = 1\n",
    ):
        bad.config.write_text(content)
        report.main([str(tmp_path / "runs")])
        said = capsys.readouterr()
        assert "2 runs" in said.out and f"refused: {bad.config}" in said.err.replace("\n", "")
