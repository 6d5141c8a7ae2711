"""Made corpora: found again, never half built, where the user wants them."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from seqdsd.data.synthetic.cache import cached_corpus, default_cache_dir

KEY = {"seed": 1}


def write_words(folder: Path) -> None:
    (folder / "words.txt").write_text("bad cab")


def test_a_corpus_is_built_once_and_found_again(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        write_words(folder)

    one, two = (cached_corpus("words", KEY, build, cache_dir=tmp_path) for _ in range(2))
    assert one == two and one.parent == tmp_path and one.name.startswith("words-")
    assert (one / "words.txt").read_text() == "bad cab"
    assert json.loads((one / "corpus.json").read_text()) == KEY
    assert len(built) == 1 and built[0] != one and not built[0].exists()


def test_another_key_is_another_folder_and_key_order_is_not(tmp_path: Path) -> None:
    keys: list[dict[str, int]] = [{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 3}]
    one, same, other = (cached_corpus("words", key, write_words, cache_dir=tmp_path) for key in keys)
    assert one == same != other


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        write_words(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_corpus("words", KEY, interrupted, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (cached_corpus("words", KEY, write_words, cache_dir=tmp_path) / "words.txt").exists()


def test_a_folder_without_its_marker_is_made_again(tmp_path: Path) -> None:
    folder = cached_corpus("words", KEY, write_words, cache_dir=tmp_path)
    (folder / "corpus.json").unlink()
    (folder / "words.txt").write_text("")
    (folder / "left over").write_text("")
    assert cached_corpus("words", KEY, write_words, cache_dir=tmp_path) == folder
    assert {path.name for path in folder.iterdir()} == {"corpus.json", "words.txt"}
    assert (folder / "words.txt").read_text() == "bad cab"


def test_two_builds_at_once_end_with_one_corpus(tmp_path: Path) -> None:
    both_are_building = Barrier(2, timeout=10)

    def build(folder: Path) -> None:
        both_are_building.wait()
        write_words(folder)

    def make(_: int) -> Path:
        return cached_corpus("words", KEY, build, cache_dir=tmp_path)

    with ThreadPoolExecutor(2) as pool:
        folders = list(pool.map(make, range(2)))
    assert folders[0] == folders[1]
    assert list(tmp_path.iterdir()) == [folders[0]]


def test_an_unwritable_cache_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="SEQDSD_CACHE"):
        cached_corpus("words", KEY, write_words, cache_dir=tmp_path / "file" / "cache")


def test_the_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEQDSD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == Path.home() / ".cache" / "seqdsd"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_dir() == Path("/xdg/seqdsd")
    monkeypatch.setenv("SEQDSD_CACHE", "/own")
    assert default_cache_dir() == Path("/own")


def test_a_full_disk_and_no_home_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path) -> None:
        with open("/dev/full", "w") as file:
            file.write("words")

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError, match=rf"{tmp_path}: .*No space left.*SEQDSD_CACHE"):
        cached_corpus("words", KEY, full, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    for name in ("SEQDSD_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OSError, match="no home folder .*SEQDSD_CACHE"):
        default_cache_dir()


BUILD = """
import sys, time
from pathlib import Path
from seqdsd.data.synthetic.cache import cached_corpus

def build(folder):
    (folder / "words.txt").write_text("bad")
    print("building", flush=True)
    time.sleep(60)

cached_corpus("words", {"seed": int(sys.argv[2])}, build, cache_dir=Path(sys.argv[1]))
"""


def test_what_a_killed_process_has_left_is_removed_and_what_another_builds_is_not(tmp_path: Path) -> None:
    others = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, str(tmp_path), seed], stdout=subprocess.PIPE, text=True
        )
        for seed in "23"
    ]
    try:
        for other in others:
            assert other.stdout is not None and other.stdout.readline() == "building\n"
        others[0].send_signal(signal.SIGKILL)
        others[0].wait()
        aside = list(tmp_path.iterdir())
        assert len(aside) == 2 and all(one.name.startswith(".words-") for one in aside)
        cached_corpus("words", KEY, write_words, cache_dir=tmp_path)
        assert len(list(tmp_path.glob(".words-*"))) == 2  # so young that they may not be locked yet
        (tmp_path / ".other-1").mkdir()
        for folder in tmp_path.iterdir():
            os.utime(folder, (time.time() - 100,) * 2)
        cached_corpus("words", {"seed": 9}, write_words, cache_dir=tmp_path)
        [left] = tmp_path.glob(".words-*")
        assert (left / "corpus" / "words.txt").is_file() and others[1].poll() is None
        assert (tmp_path / ".other-1").is_dir()
    finally:
        for other in others:
            other.kill()
            other.wait()
            assert other.stdout is not None
            other.stdout.close()
