import errno
import gzip
import json
import os
import sys
import tracemalloc

import pytest

from seqdsd.data import manifest as manifest_module
from seqdsd.data import unpacking
from seqdsd.data.manifest import (
    ManifestError,
    Utterance,
    read_manifest,
    write_manifest,
)


@pytest.fixture
def folder(tmp_path):
    """A folder with a few files that stand for audio; nothing here looks inside them."""
    for name in ("a.wav", "b.wav", "x/a.wav", "x/c.wav"):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"audio")
    return tmp_path / "corpus"


def line(**changes):
    entry = {"audio_filepath": "a.wav", "duration": 1.5, "text": "yes"} | changes
    return json.dumps({key: value for key, value in entry.items() if value != "ABSENT"})


def write(folder, *lines):
    path = folder / "train.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_reads_every_field(folder):
    path = write(
        folder, line(id="u1", speaker="fash", lang="en"), "", line(audio_filepath="x/c.wav", duration=2)
    )
    manifest = read_manifest(path)
    assert manifest.utterances == [
        Utterance("u1", str(folder / "a.wav"), 1.5, "yes", "fash", "train.jsonl:1"),
        Utterance("c", str(folder / "x" / "c.wav"), 2.0, "yes", None, "train.jsonl:3"),
    ]
    assert manifest.skipped == [] and manifest.path == path


def test_ids_that_collide_become_paths(folder):
    path = write(folder, line(), line(audio_filepath="x/a.wav"), line(audio_filepath="b.wav"))
    assert [u.id for u in read_manifest(path).utterances] == ["a.wav", "x-a.wav", "b"]


def test_a_derived_id_gives_way_to_an_explicit_one(folder):
    path = write(folder, line(audio_filepath="x/a.wav"), line(audio_filepath="b.wav", id="a"))
    assert [u.id for u in read_manifest(path).utterances] == ["x-a.wav", "a"]


def test_absolute_paths_may_lie_anywhere(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere.wav"
    elsewhere.write_bytes(b"audio")
    path = write(folder, line(audio_filepath=str(elsewhere)), line(audio_filepath="x/../b.wav"))
    assert [u.audio_path for u in read_manifest(path).utterances] == [str(elsewhere), str(folder / "b.wav")]


def test_byte_order_mark_is_tolerated(folder):
    path = folder / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line().encode())
    assert len(read_manifest(path).utterances) == 1


# How deep a value Python's reader takes differs by version: to a depth of about 1,000, or of 10,000.
TOO_DEEP = "within each other" if sys.version_info >= (3, 13) else "not JSON"
BAD_LINES = {
    "not JSON": ("{'text': 'yes'}", "not JSON"),
    "endless nesting": ("[" * 100_000, "not JSON"),
    "not an object": ("[1, 2]", "a JSON list, not an object"),
    "no text": (line(text="ABSENT"), "the key 'text' is missing (found: audio_filepath, duration)"),
    "no audio": (line(audio_filepath="ABSENT"), "the key 'audio_filepath' is missing"),
    "no duration": (line(duration="ABSENT"), "the key 'duration' is missing"),
    "zero duration": (line(duration=0), "'duration' is 0"),
    "NaN duration": (line(duration=float("nan")), "'duration' is nan"),
    "infinite duration": (line(duration=float("inf")), "'duration' is inf"),
    "huge duration": (line(duration=10**400), "'duration' is 1000"),
    "text duration": (line(duration="1.5"), "'duration' is '1.5'"),
    "true duration": (line(duration=True), "'duration' is True"),
    "number as text": (line(text=5), "'text' is 5"),
    "blank text": (line(text=" "), "'text' is ' '"),
    "outside": (line(audio_filepath="../secret.wav"), "points outside"),
    "outside, hidden": (line(audio_filepath="x/../../secret.wav"), "points outside"),
    "sibling with the same start": (line(audio_filepath="../corpus2/a.wav"), "points outside"),
    "no such file": (line(audio_filepath="gone.wav"), "gone.wav does not exist"),
    "a folder": (line(audio_filepath="x"), "does not exist"),
    "NUL in the path": (line(audio_filepath="a\0.wav"), "does not exist"),
    "path not a string": (line(audio_filepath=3), "'audio_filepath' is 3"),
    "empty id": (line(id=""), "'id' is ''"),
    "offset before the start": (line(offset=-2.5), "'offset' is -2.5"),
    "text offset": (line(offset="2.5"), "'offset' is '2.5'"),
    "1e999 seconds": (line().replace("1.5", "1e999"), "'duration' is inf"),
    "negative duration": (line(duration=-1), "'duration' is -1"),
    "thousands of digits": (line().replace("1.5", "1" * 5000), "not JSON"),
    "deep objects": ('{"text": ' * 100_000 + "1" + "}" * 100_000, "not JSON"),
    "a deep text": (line(text="DEEP").replace('"DEEP"', "[" * 5000 + "]" * 5000), TOO_DEEP),
    "a text too deep": (
        line(text="DEEP").replace('"DEEP"', "[" * 32 + "]" * 32),
        "more than 32 lists and obj",
    ),
    "true offset": (line(offset=True), "'offset' is True"),
    "endless offset": (line().replace("1.5", '1.5, "offset": 1e999'), "'offset' is inf"),
    "half a pair in the path": (line(audio_filepath="a\ud800.wav"), r"'\ud800' in "),
    "half a pair in the text": (line(text="a\udce9"), r"'\udce9' in "),
    "half a pair in the id": (line(id="a\udce9"), r"'\udce9' in "),
    "a long path": (line(audio_filepath="a" * 5000), "does not exist"),
    "controls in the path": (line(audio_filepath="a\x1b[2J.wav"), r"a\x1b[2J.wav does not exist"),
    "repeated id": (line(id="first"), "the id 'first' was used on line 1 already"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_line_is_named_and_can_be_skipped(folder, tmp_path, bad, message):
    for outside in ("secret.wav", "corpus2/a.wav"):
        (tmp_path / outside).parent.mkdir(exist_ok=True)
        (tmp_path / outside).write_bytes(b"audio")
    path = write(folder, line(id="first", audio_filepath="b.wav"), bad, line(id="last"))
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert str(error.value).startswith(f"{path}:2: ") and message in str(error.value)
    manifest = read_manifest(path, on_bad_data="skip")
    assert [u.id for u in manifest.utterances] == ["first", "last"]
    assert manifest.skipped == [str(error.value)]


def test_invalid_utf8_is_charged_to_its_line(folder):
    path = folder / "train.jsonl"
    path.write_bytes(line().encode() + b'\n{"text": "\xff"}\n' + line(audio_filepath="b.wav").encode())
    with pytest.raises(ManifestError, match=r"train.jsonl:2: not valid UTF-8 at byte 10"):
        read_manifest(path)
    assert len(read_manifest(path, on_bad_data="skip").utterances) == 2


def test_the_same_audio_twice_needs_ids(folder):
    path = write(folder, line(), line())
    with pytest.raises(ManifestError, match=r"train.jsonl:2: .* used on line 1 already"):
        read_manifest(path)
    assert [u.id for u in read_manifest(path, on_bad_data="skip").utterances] == ["a.wav"]


@pytest.mark.parametrize("lines", [[], ["", "  "], ["nonsense"]])
def test_a_manifest_without_utterances_is_never_accepted(folder, lines):
    path = write(folder, *lines)
    with pytest.raises(ManifestError, match="holds no utterance"):
        read_manifest(path, on_bad_data="skip")
    with pytest.raises(ManifestError, match=r"train\.jsonl"):
        read_manifest(path)


def test_missing_manifest(tmp_path):
    with pytest.raises(ManifestError, match=r"gone.jsonl: cannot open the manifest \(No such file"):
        read_manifest(tmp_path / "gone.jsonl")


def test_what_is_written_reads_back_and_moves_with_its_folder(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere.wav"
    elsewhere.write_bytes(b"audio")
    utterances = [
        Utterance("é 1", str(folder / "x" / "a.wav"), 1 / 3, "ça", "s", "x"),
        Utterance("2", str(elsewhere), 2.0, "no", None, "x"),
    ]
    path = folder / "out.jsonl"
    write_manifest(path, utterances)
    first, second = (json.loads(text) for text in path.read_text(encoding="utf-8").splitlines())
    assert first["audio_filepath"] == "x/a.wav" and second["audio_filepath"] == str(elsewhere)
    assert "speaker" not in second
    moved = folder.rename(tmp_path / "moved")
    for before, after in zip(utterances, read_manifest(moved / "out.jsonl").utterances, strict=True):
        assert (after.id, after.duration_seconds, after.text, after.speaker) == (
            before.id,
            before.duration_seconds,
            before.text,
            before.speaker,
        )


def test_a_failed_write_leaves_the_old_manifest_and_no_litter(folder):
    path = write(folder, line())
    before = path.read_bytes()

    def breaks():
        yield Utterance("1", str(folder / "a.wav"), 1.0, "yes", None, "x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_manifest(path, breaks())
    assert path.read_bytes() == before
    assert sorted(os.listdir(folder)) == ["a.wav", "b.wav", "train.jsonl", "x"]


def test_a_line_that_is_too_long_is_named_and_can_be_skipped(folder, monkeypatch):
    monkeypatch.setattr(manifest_module, "LONGEST_LINE_BYTES", 1000)
    path = write(folder, line(id="first"), line(text="x" * 5000), line(audio_filepath="b.wav"))
    with pytest.raises(ManifestError, match=r"train\.jsonl:2: longer than 1,000 bytes"):
        read_manifest(path)
    read = read_manifest(path, on_bad_data="skip")
    assert [(one.id, one.source) for one in read.utterances] == [
        ("first", "train.jsonl:1"),
        ("b", "train.jsonl:3"),
    ]


@pytest.mark.parametrize(
    "content", [b"a", b"{" + 97 * b" " + b"}\n", b"\n"], ids=["one line", "many lines", "blank lines"]
)
def test_a_gzip_file_that_unpacks_to_far_more_than_text_is_refused_early(folder, content, monkeypatch):
    monkeypatch.setattr(unpacking, "_IN_ANY_CASE_BYTES", 30_000)
    path = folder / "train.jsonl.gz"
    with gzip.open(path, "wb", 1) as file:
        file.write(line().encode() + b"\n")
        file.write(content * (200_000 // len(content)))
    tracemalloc.start()
    try:
        with pytest.raises(ManifestError, match=r"train\.jsonl\.gz: unpacks to more than 100 times its size"):
            read_manifest(path, on_bad_data="skip")
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def test_a_manifest_of_nothing_but_bad_lines_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(manifest_module, "_MOST_SKIPPED", 10)
    path = write(folder, line(), *["{}"] * 20)
    with pytest.raises(ManifestError, match=r"train\.jsonl:12: .*More than 10 lines cannot be used"):
        read_manifest(path, on_bad_data="skip")


def test_messages_stay_short(folder):
    path = write(folder, line(), json.dumps({"x" * 100_000: 1}), line(audio_filepath="b.wav"))
    [message] = read_manifest(path, on_bad_data="skip").skipped
    assert len(message) < 2100 and message.startswith(f"{path}:2: ") and message.endswith("Add it.")


def test_a_full_disk_names_the_file_and_the_remedy(folder, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)  # where a full disk may show itself; the error names no file
    utterance = Utterance("1", str(folder / "a.wav"), 1.0, "yes", None, "x")
    with pytest.raises(
        OSError, match=r"out\.jsonl: cannot be written \(No space left on device\); make room"
    ):
        write_manifest(folder / "out.jsonl", [utterance])
    assert not list(folder.glob("*out*"))


def test_a_name_that_no_manifest_can_hold_is_not_written(folder):
    utterance = Utterance("1", str(folder / "caf\udce9.wav"), 1.0, "yes", None, "x")
    with pytest.raises(ManifestError, match=r"out\.jsonl: utterance 1: .*no character of Unicode"):
        write_manifest(folder / "out.jsonl", [utterance])
