"""The cache against a dict that holds the same; damage is done to its files byte by byte."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from seqdsd.vision.cache import KEY_BYTES, FeatureCache

SIZE = 6


def key(number: int) -> bytes:
    return number.to_bytes(KEY_BYTES, "big")  # ends and starts in zeros: keys are bytes, not C strings


def rows(*numbers: int) -> np.ndarray:
    """The features that belong to these keys."""
    return np.array([np.arange(SIZE) + number / 7 for number in numbers], dtype=np.float32)


def fill(folder: Path, numbers: range, *, at_once: int = 2) -> None:
    cache = FeatureCache(folder, SIZE)
    for start in range(numbers.start, numbers.stop, at_once):
        some = range(start, min(start + at_once, numbers.stop))
        cache.append([key(number) for number in some], rows(*some))


def held(folder: Path, numbers: range) -> list[int]:
    """The numbers whose features are there; what is there must be right."""
    cache = FeatureCache(folder, SIZE)
    found = {number: row for number in numbers if (row := cache.row(key(number))) is not None}
    for number, row in found.items():
        np.testing.assert_array_equal(cache.array[row], rows(number)[0])
    return list(found)


def test_what_was_appended_is_found_again(tmp_path):
    cache = FeatureCache(tmp_path / "new" / "cache", SIZE)
    assert cache.row(key(0)) is None
    assert cache.array.shape == (0, SIZE)
    cache.append([key(0), key(1)], rows(0, 1))
    cache.append([key(256)], rows(256))
    np.testing.assert_array_equal(cache.array[cache.row(key(256))], rows(256)[0])
    assert held(tmp_path / "new" / "cache", range(300)) == [0, 1, 256]
    assert isinstance(FeatureCache(tmp_path / "new" / "cache", SIZE).array, np.memmap)


def test_every_cut_of_the_index_loses_only_what_was_cut(tmp_path, caplog):
    fill(tmp_path / "whole", range(4))
    index, features = ((tmp_path / "whole" / name).read_bytes() for name in ("index", "features.f32"))
    record = len(index) // 4
    for length in range(len(index)):
        folder = tmp_path / f"cut-{length}"
        folder.mkdir()
        (folder / "index").write_bytes(index[:length])
        (folder / "features.f32").write_bytes(features)
        assert held(folder, range(4)) == list(range(length // record))
        fill(folder, range(length // record, 6))
        assert held(folder, range(6)) == list(range(6))
    assert not caplog.records, "a torn end is what a kill leaves: nothing to report"


@pytest.mark.parametrize("length", range(0, 4 * SIZE * 4, 5))
def test_a_cut_row_file_is_named_and_its_rows_come_again(tmp_path, caplog, length):
    fill(tmp_path, range(4))
    path = tmp_path / "features.f32"
    path.write_bytes(path.read_bytes()[:length])
    there = length // (SIZE * 4)
    assert held(tmp_path, range(4)) == list(range(there))
    assert caplog.records[0].getMessage() == f"{path}: row {there} is damaged and computed again"
    fill(tmp_path, range(there, 4))
    caplog.clear()
    assert held(tmp_path, range(4)) == list(range(4))
    assert not caplog.records


@pytest.mark.parametrize("name", ["index", "features.f32"])
def test_every_flipped_byte_is_noticed(tmp_path, caplog, name):
    fill(tmp_path, range(1, 4))
    path = tmp_path / name
    whole = path.read_bytes()
    for position in range(len(whole)):
        caplog.clear()
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        hit = 1 + position * 3 // len(whole)
        assert held(tmp_path, range(1, 4)) == [number for number in (1, 2, 3) if number != hit]
        assert [(record.levelno, str(path) in record.getMessage()) for record in caplog.records] == [
            (logging.WARNING, True)
        ]


def test_damage_is_told_until_it_is_repaired(tmp_path, caplog):
    fill(tmp_path, range(1, 4))
    for name in ("index", "features.f32"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:1] + bytes([content[1] ^ 16]) + content[2:])
        assert held(tmp_path, range(1, 4)) == [2, 3]
        assert len(caplog.records) == 1
        fill(tmp_path, range(1, 2))
        caplog.clear()
        assert held(tmp_path, range(1, 4)) == [1, 2, 3]
        assert not caplog.records
        for file in tmp_path.iterdir():
            file.unlink()
        fill(tmp_path, range(1, 4))


def test_a_hole_of_zeros_is_noticed(tmp_path):
    fill(tmp_path, range(4))
    (tmp_path / "index").write_bytes(bytes((tmp_path / "index").stat().st_size))
    (tmp_path / "features.f32").write_bytes(bytes((tmp_path / "features.f32").stat().st_size))
    assert held(tmp_path, range(4)) == []


def test_threads_append_at_once(tmp_path):  # processes do so in test_features.py
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda start: fill(tmp_path, range(start, start + 60), at_once=1), (0, 30, 60, 90)))
    assert held(tmp_path, range(150)) == list(range(150))


HOLD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_appending_waits_for_other_processes(tmp_path):
    fill(tmp_path, range(2))
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path / ".lock")]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder,
        ThreadPoolExecutor(1) as pool,
    ):
        assert holder.stdout.readline() == b"held\n"
        appending = pool.submit(fill, tmp_path, range(2, 4))
        with pytest.raises(TimeoutError):
            appending.result(timeout=0.3)
        assert held(tmp_path, range(4)) == [0, 1], "reading needs no lock"
        holder.stdin.close()
        appending.result(timeout=30)
    assert held(tmp_path, range(4)) == [0, 1, 2, 3]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"cannot write the feature cache .*file/cache.*Choose another cache folder"
    ):
        FeatureCache(tmp_path / "file" / "cache", SIZE)
