import io

import pytest
from rich.console import Console

from seqdsd.inference import files
from seqdsd.inference.files import find_files, late_progress


def test_files_named_come_as_they_are_and_those_below_folders_sorted(tmp_path):
    for name in ("deep/b.png", "a.PNG", "notes.txt", "deep/er/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    named = [tmp_path / "gone.x", tmp_path]
    found = find_files(named, suffixes=(".png", ".jpg"), kind="image")
    assert found == [tmp_path / name for name in ("gone.x", "a.PNG", "deep/b.png", "deep/er/c.jpg")]
    with pytest.raises(
        ValueError, match=f"{tmp_path}/folder.png: no image below this folder \\(.png, .jpg\\)"
    ):
        find_files([tmp_path / "folder.png"], suffixes=(".png", ".jpg"), kind="image")


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    shown = io.StringIO()
    monkeypatch.setattr(files, "Console", lambda stderr: Console(file=shown, force_terminal=True))
    return shown


def test_the_bar_appears_if_it_takes_a_while(terminal, monkeypatch):
    monkeypatch.setattr(files, "QUIET_UNTIL_SECONDS", 0.0)
    with late_progress(lambda: 4) as advance:
        advance(1)
        advance(1)
    assert "50%" in terminal.getvalue()


def test_no_bar_for_what_is_soon_done(terminal):
    with late_progress(lambda: 4) as advance:
        advance(4)
    assert terminal.getvalue() == ""


def test_no_bar_and_no_counting_without_a_terminal(capsys):
    def total():
        raise AssertionError

    with late_progress(total) as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
