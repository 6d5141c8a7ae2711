import re

import pytest
import writing

from seqdsd.data.manifest import read_manifest


@pytest.fixture
def recording(tmp_path, make_audio):
    def make(id_, transcript="yes", speaker="s", path=None):
        path = path or make_audio(tmp_path / "audio" / f"{id_}.wav", 0.25)
        return writing.Recording(id_, path, transcript, speaker, f"list.tsv:{id_}")

    return make


def test_writes_checked_manifests_and_says_what_was_dropped(tmp_path, recording, capsys):
    splits = {
        "train": [recording("1", "Well-known: YES!"), recording("2", "no!", None)],
        "test": [recording("3", "cafe\u0301")],
    }
    writing.write_splits(splits, tmp_path / "out")
    first, second = read_manifest(tmp_path / "out" / "train.jsonl").utterances
    assert (first.id, first.text, first.duration_seconds, first.speaker) == ("1", "well known yes", 0.25, "s")
    assert second.speaker is None
    assert read_manifest(tmp_path / "out" / "test.jsonl").utterances[0].text == "cafe"
    rows = [re.split(r"\s*│\s*", line)[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert rows[0] == ["train", "2", "1", "0.00", "4", "! ×2  - ×1  : ×1"]
    assert rows[1][:5] == ["test", "1", "1", "0.00", "1"] and rows[1][5].startswith("combining")


def test_digits_are_kept_and_warned_of(tmp_path, recording, capsys):
    writing.write_splits({"train": [recording("1", "add 55")]}, tmp_path)
    assert read_manifest(tmp_path / "train.jsonl").utterances[0].text == "add 55"
    assert "the tokenizer will refuse: 5 ×2" in " ".join(capsys.readouterr().err.split())


def bad_recordings(tmp_path, recording, make_audio):
    noise = tmp_path / "noise.wav"
    noise.write_bytes(b"not audio at all")
    shortened = make_audio(tmp_path / "440c0401.wv1", format="NIST")
    header = shortened.read_bytes()
    end = header.index(b"end_head")
    coding = b"sample_coding -s26 pcm,embedded-shorten-v2.00\n"
    shortened.write_bytes((header[:end] + coding + b"end_head\n").ljust(1024) + header[1024:])
    piped = make_audio(tmp_path / "piped.flac")
    data = bytearray(piped.read_bytes())
    data[21] &= 0xF0  # STREAMINFO's 36-bit count of samples, as an encoder that writes to a pipe leaves it
    data[22:26] = bytes(4)
    piped.write_bytes(data)

    def cut(suffix):
        path = make_audio(tmp_path / f"cut.{suffix}", 2.0)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return {
        "gone.wav: there is no such file": recording("b", path=tmp_path / "gone.wav"),
        "noise.wav: not audio": recording("b", path=noise),
        "empty.wav: the file holds no samples": recording("b", path=make_audio(tmp_path / "empty.wav", 0)),
        "sph2pipe -f wav": recording("b", path=shortened),
        "its header states no length": recording("b", path=piped),
        **{f"cut.{suffix}: truncated": recording("b", path=cut(suffix)) for suffix in ("wav", "flac", "ogg")},
        "has no words": recording("b", "..."),
        "the id 'a' occurs twice": recording("a"),
    }


def test_bad_recordings_are_named_or_skipped(tmp_path, recording, make_audio):
    for message, bad in bad_recordings(tmp_path, recording, make_audio).items():
        with pytest.raises(ValueError, match=message) as error:
            writing.write_splits({"train": [recording("a"), bad]}, tmp_path / "out")
        assert str(error.value).startswith(f"{bad.source}: ")
        assert not (tmp_path / "out").exists()
        split = writing.write_splits({"train": [recording("a"), bad]}, tmp_path / "skip", on_bad_data="skip")
        assert len(split["train"].utterances) == 1 and split["train"].skipped == [str(error.value)]


def test_an_empty_split_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no utterance for the split 'dev'"):
        writing.write_splits({"dev": []}, tmp_path)


def test_progress_bar_neither_loses_nor_repeats(recording, monkeypatch, capsys):
    monkeypatch.setattr(writing, "_SECONDS_WITHOUT_PROGRESS_BAR", 0.0)
    items = [recording(str(number)) for number in range(5)]
    assert list(writing._with_progress(items, "train")) == items


def test_shared_speakers_are_refused(recording):
    splits = {"train": [recording("1", speaker="x")], "test": [recording("2", speaker="x")]}
    with pytest.raises(ValueError, match="such as 'x' in train and test"):
        writing.refuse_shared_speakers(splits)
    writing.refuse_shared_speakers(
        {"train": [recording("1", speaker=None)], "test": [recording("2", speaker=None)]}
    )


def test_names_of_test_splits():
    assert writing.names_of_test_splits([]) == []
    assert writing.names_of_test_splits(["anything"]) == ["test"]
    assert writing.names_of_test_splits(["test-clean", "test-other"]) == ["test_clean", "test_other"]
    assert writing.names_of_test_splits(["test", "mine"]) == ["test", "test_mine"]
    with pytest.raises(ValueError, match="different names"):
        writing.names_of_test_splits(["a", "a"])


def test_warnings_may_contain_markup(capsys):
    writing.warn("transcripts keep [bold]")
    assert "transcripts keep [bold]" in capsys.readouterr().err
