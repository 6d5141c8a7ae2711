import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib

import pytest

from seqdsd.config import to_toml
from seqdsd.recipes import ds1
from seqdsd.records import (
    RunFolder,
    RunFolderError,
    checked,
    provenance,
    read_json_lines,
    shapes,
    slug,
    write_atomically,
    write_json_lines,
)
from seqdsd.sparsity import Phase


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "runs" / "one")


def test_paths_are_those_of_the_documentation(folder):
    names = {
        folder.config: "config.toml",
        folder.phases: "phases.jsonl",
        folder.checkpoints: "checkpoints",
        folder.tensorboard: "tb",
        folder.hypotheses("Dense Iter 0", "test"): "hyps/dense-iter-0.test.jsonl",
        folder.weights("Sparse Iter 1"): "checkpoints/sparse-iter-1.safetensors",
    }
    assert {str(path.relative_to(folder.path)): name for path, name in names.items()} == {
        name: name for name in names.values()
    }
    assert not folder.path.exists()


@pytest.mark.parametrize(
    ("name", "expected"), [("Dense Iter 0", "dense-iter-0"), ("  LLR: Phase/2 ", "llr-phase-2")]
)
def test_slug(name, expected):
    assert slug(name) == expected


def test_phase_records_come_back(folder, phase_records):
    first, second = phase_records([Phase(name, "dense", 2, 0.1) for name in ("Dense Iter 0", "ü")])
    records = [{**first, "further": [2.5, {"x": "y"}]}, second]
    folder.write_phases(records)
    assert folder.read_phases() == records
    assert len(folder.phases.read_text(encoding="utf-8").splitlines()) == 2


def test_no_records_and_damaged_ones_are_named(folder, phase_records):
    with pytest.raises(RunFolderError, match=re.escape(str(folder.path))):
        folder.read_phases()
    folder.write_phases(phase_records([Phase(name, "dense", 1, 0.1) for name in ("one", "two")]))
    with folder.phases.open("a") as file:
        file.write('{"index": ')
    with pytest.raises(RunFolderError, match=r"phases\.jsonl:3: damaged"):
        folder.read_phases()


def test_json_lines_hold_what_json_has(tmp_path):
    """NaN and infinity, as of a loss that was never finite, would make the file unreadable to others."""
    write_json_lines(
        tmp_path / "a.jsonl", [{"loss": [1.5, math.nan], "dev": {"loss": math.inf, "wer": 0.5}, "n": 3}]
    )
    line = (tmp_path / "a.jsonl").read_text()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "loss": [1.5, None],
        "dev": {"loss": None, "wer": 0.5},
        "n": 3,
    }
    assert list(read_json_lines(tmp_path / "a.jsonl"))[0]["n"] == 3


def test_a_failed_write_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "sub" / "file"
    write_atomically(path, "old")

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]
    monkeypatch.undo()
    write_atomically(path, b"new")
    assert path.read_text() == "new"


def test_a_file_is_named_whose_folders_cannot_be_made(tmp_path):
    (tmp_path / "disk").symlink_to(tmp_path / "not mounted")
    path = tmp_path / "disk" / "runs" / "one" / "file"
    with pytest.raises(OSError, match=f"^{path}: cannot be written .*; make room or correct the path"):
        write_atomically(path, "x")


def test_content_is_synced_before_it_takes_the_name(tmp_path, monkeypatch):
    order = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("sync"), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("rename"), rename(*paths)))
    write_atomically(tmp_path / "file", "x")
    assert order == ["sync", "rename", "sync"]  # content, name, and the folder that holds the name


HOLD = """
import sys
from pathlib import Path
from seqdsd.records import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(folder):
    """Another process that holds the folder."""
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_the_first(folder, holder):
    with pytest.raises(RunFolderError, match=rf"one: another run \(process {holder.pid}\).*another --out"):
        with folder.locked():
            pytest.fail("the folder was locked twice")


def test_the_lock_falls_with_its_process(folder, holder):
    holder.kill()
    holder.wait()
    (folder.checkpoints).mkdir()
    (folder.checkpoints / ".last.safetensors.123.tmp").write_bytes(b"half")
    (folder.checkpoints / "last.safetensors").write_bytes(b"whole")
    with folder.locked():
        assert (folder.path / ".lock").read_text() == str(os.getpid())
        assert [path.name for path in folder.checkpoints.iterdir()] == ["last.safetensors"]


DIE_WITH_A_CHILD_LEFT = """
import os, sys, time
from pathlib import Path
from seqdsd.records import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    child = os.fork()
    if child == 0:
        os.close(1)
        time.sleep(60)
    print(child, flush=True)
    os._exit(9)
"""


def test_the_lock_falls_although_a_child_lives_on(folder):
    """A data loader's workers outlive a killed trainer by seconds; they must not hold its folder."""
    command = [sys.executable, "-c", DIE_WITH_A_CHILD_LEFT, str(folder.path)]
    child = int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout)
    try:
        with folder.locked():
            os.kill(child, 0)  # still there
    finally:
        os.kill(child, signal.SIGKILL)


def test_provenance_is_toml_and_says_how_the_run_came_about(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/bin/python3", "-m", "seqdsd.recipes.ds1", "--out", "a b"])
    table = tomllib.loads(to_toml(ds1.Config(), provenance(7)))["provenance"]
    assert table["command"] == "python -m seqdsd.recipes.ds1 --out 'a b'" and table["seed"] == 7
    assert {"seqdsd", "torch", "torchaudio", "lightning-fabric", "numpy"} <= set(table["versions"])
    assert re.fullmatch(r"[0-9a-f]{12}(\+changes)?|not a git checkout", table["git_commit"])
    assert re.match(r"\d{4}-\d\d-\d\dT", table["started"])


def test_provenance_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance(0)["git_commit"] == "not a git checkout"


def test_the_lock_holds_within_a_process_too(folder):
    with folder.locked():
        with pytest.raises(RunFolderError, match="this process is writing here already"), folder.locked():
            pass
    with folder.locked():
        pass


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"[1]", "expected `object`, got `array`"),
        (b"null", "expected `object`, got `null`"),
        (b"[" * 5_000, "damaged record"),
        (b'{"id": "a", "path": "b", "x": ' + b"[" * 100 + b"]" * 100 + b"}", "more than 32 lists"),
        (b'{"id": ' + b"1" * 5_000 + b"}", "damaged record"),
        (b'{"id": "\xff", "path": "b"}', "not UTF-8 text"),
        (b'{"id": NaN, "path": "b"}', "damaged record"),
        (b'{"id": "a"}', "object missing required field `path`"),
        (b'{"id": 3, "path": "b"}', "id: expected `str`, got `int`"),
    ],
)
def test_lines_of_another_shape_are_named(tmp_path, line, problem):
    path = tmp_path / "audio.jsonl"
    path.write_bytes(b'{"id": "a", "path": "b", "further": [1]}\n' + line + b"\n")
    rows = read_json_lines(path, shapes.Medium, remedy="remove it")
    assert next(rows) == {"id": "a", "path": "b", "further": [1]}
    with pytest.raises(RunFolderError, match=rf"^{re.escape(str(path))}:2: {problem}.*; remove it$"):
        next(rows)


@pytest.mark.parametrize(
    ("name", "is_one"), [("Dense Iter 0", True), ("ü", True), (" ", False), ("a\x1b", False)]
)
def test_a_name_says_something_and_steers_no_terminal(name, is_one):
    try:
        assert checked(name, shapes.Name, "here") == name and is_one
    except RunFolderError:
        assert not is_one


@pytest.mark.parametrize("content", ["[]", "{}", '{"epochs_planned": 3}', "[" * 5_000, "1" * 5_000, b"\xff"])
def test_progress_of_another_shape_is_none(folder, content):
    folder.path.mkdir(parents=True)
    whole = {
        "phase": "a",
        "epochs_done": 1,
        "epochs_planned": 2,
        "epochs_timed": 1,
        "seconds": 1.5,
        "dev": "",
    }
    folder.write_progress(whole)
    assert folder.read_progress() == whole
    (folder.path / "progress.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert folder.read_progress() is None


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 64 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    if not mounted or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_names_the_file_and_keeps_the_old_one(full_disk):
    path = full_disk / "file"
    write_atomically(path, "old")
    with pytest.raises(
        OSError, match=rf"^{re.escape(str(path))}: cannot be written .No space left.*make room"
    ):
        write_atomically(path, b"x" * 100_000)
    assert path.read_text() == "old" and list(full_disk.iterdir()) == [path]
