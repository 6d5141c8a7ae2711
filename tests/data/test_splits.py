"""Kaldi's folders, Lhotse's cuts and NeMo's segments, as their owners' tools write them."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from seqdsd.data import (
    BadDataError,
    ManifestError,
    find_splits,
    read_corpus,
    read_manifest,
    read_split,
    write_manifest,
)
from seqdsd.data.kaldi import read_kaldi
from seqdsd.data.lhotse import read_cuts

RATE_HZ = 16_000


@pytest.fixture
def talk(tmp_path) -> Path:
    """Four seconds: in each the samples are that second's number, divided by ten."""
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.repeat([0.1, 0.2, 0.3, 0.4], RATE_HZ), RATE_HZ)
    return path


@pytest.fixture
def whole(tmp_path) -> Path:
    path = tmp_path / "whole.wav"
    soundfile.write(path, np.full(RATE_HZ, 0.5), RATE_HZ)
    return path


# Lhotse ------------------------------------------------------------------------------------------


def cut(id_: str, path: Path, start: float, seconds: float, whole_seconds: float, **changes) -> dict:
    """As Lhotse 1.33 wrote it with ``CutSet.from_manifests(…).trim_to_supervisions().to_file(…)``."""
    recording = {
        "id": path.stem,
        "sources": [{"type": "file", "channels": [0], "source": str(path)}],
        "sampling_rate": RATE_HZ,
        "num_samples": int(whole_seconds * RATE_HZ),
        "duration": whole_seconds,
        "channel_ids": [0],
    }
    supervision = {"id": id_, "recording_id": path.stem, "start": 0.0, "duration": seconds, "channel": 0}
    return {
        "id": id_,
        "start": start,
        "duration": seconds,
        "channel": 0,
        "supervisions": [{**supervision, "text": f"words of {id_}", "speaker": "ann"}],
        "recording": recording,
        "type": "MonoCut",
        **changes,
    }


def write_cuts(path: Path, *cuts: dict) -> Path:
    data = "".join(json.dumps(one) + "\n" for one in cuts).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["cuts_train.jsonl.gz", "train.jsonl", "train.jsonl.gz"])
def test_lhotse_cuts(tmp_path, talk, whole, name):
    path = write_cuts(
        tmp_path / name,
        cut("s1", talk, 0.5, 1.25, 4.0),
        cut("s2", talk, 0.0, 1.0, 4.0),
        cut("s3", whole, 0, 1.0, 1.0),
    )
    one, two, three = read_split(path).utterances
    assert (one.id, one.text, one.speaker) == ("s1", "words of s1", "ann")
    assert (one.audio_path, one.start_seconds, one.duration_seconds) == (str(talk), 0.5, 1.25)
    assert two.start_seconds == 0.0  # the first of four seconds
    assert three.start_seconds is None  # all of it
    assert one.source == f"{name}:1"


BAD_CUTS = {
    "changed while read": ({"recording": {"transforms": [{"name": "Speed"}]}}, "transforms"),
    "without a file": (
        {"recording": {"sources": [{"type": "url", "source": "https://x"}]}},
        "'url', not in a file",
    ),
    "of several files": ({"recording": {"sources": []}}, "not a cut of one recording in one file"),
    "one of two channels": (
        {"recording": {"sources": [{"type": "file", "source": "x", "channels": [0, 1]}]}},
        "several channels",
    ),
    "padded": ({"recording": None}, "not a cut of one recording in one file"),
    "without text": ({"supervisions": []}, "no text"),
    "said before": ({"id": "good"}, "used before"),
    "of no source": (
        {"recording": {"sources": [{"type": "file"}]}},
        "not a cut of one recording in one file",
    ),
    "of a source in words": (
        {"recording": {"sources": ["talk.wav"]}},
        "not a cut of one recording in one file",
    ),
    "text in numbers": ({"supervisions": [{"text": 5}]}, "not a cut of one recording in one file"),
    "no duration": ({"duration": 0.0}, "'duration' is 0.0"),
    "duration in words": ({"duration": "NaN"}, "'duration' is 'NaN'"),
    "after the end": ({"start": 5.0}, "starts at 5.0 s of 4.0 s"),
}


@pytest.mark.parametrize(("changes", "what"), BAD_CUTS.values(), ids=BAD_CUTS)
def test_cuts_that_cannot_be_read_are_named_and_can_be_skipped(tmp_path, talk, changes, what):
    bad = cut("bad", talk, 0.5, 1.0, 4.0)
    if changes.get("recording"):
        changes = {"recording": {**bad["recording"], **changes["recording"]}}
    path = write_cuts(tmp_path / "cuts_dev.jsonl", cut("good", talk, 1, 1.0, 4.0), {**bad, **changes})
    with pytest.raises(ManifestError, match=rf"{path}:2: .*{what}"):
        read_cuts(path)
    manifest = read_cuts(path, on_bad_data="skip")
    assert [one.id for one in manifest.utterances] == ["good"] and len(manifest.skipped) == 1


@pytest.mark.parametrize("spoil", [lambda data: data[:-20], lambda data: b"no gzip", lambda data: b""])
def test_a_damaged_cut_set(tmp_path, talk, spoil):
    path = write_cuts(tmp_path / "cuts_dev.jsonl.gz", *(cut(f"s{i}", talk, 0.5, 1.0, 4.0) for i in range(50)))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ManifestError, match=str(path)):
        read_split(path)


def test_a_missing_cut_set(tmp_path):
    with pytest.raises(ManifestError, match="cut.*No such file"):
        read_cuts(tmp_path / "cuts_dev.jsonl.gz")


# Kaldi -------------------------------------------------------------------------------------------


def write_kaldi(folder: Path, **files: str) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name.replace("wav_scp", "wav.scp")).write_text(content)
    return folder


def test_a_kaldi_folder(tmp_path, talk, whole):
    folder = write_kaldi(
        tmp_path / "train",
        wav_scp=f"a-talk {talk}\nb-whole sph2pipe -f wav -p -c 1 {whole} |\nc flac -c -d -s {whole} |\n",
        text="a-talk\tone two\nb-whole  three\nc four\n",
        utt2spk="a-talk a\nb-whole b\n",
    )
    one, two, three = read_split(folder).utterances
    assert (one.id, one.text, one.speaker, one.duration_seconds) == ("a-talk", "one two", "a", 4.0)
    assert (two.audio_path, two.start_seconds, three.audio_path) == (str(whole), None, str(whole))
    assert one.source == "train/text:1" and three.speaker is None


def test_a_kaldi_folder_with_segments(tmp_path, talk):
    folder = write_kaldi(
        tmp_path / "train",
        wav_scp=f"talk {talk}\n",
        text="talk-1 one\ntalk-2 two\n",
        segments="talk-1 talk 0.5 1.25\ntalk-2 talk 2 3\n",
    )
    one, two = read_kaldi(folder).utterances
    assert (one.start_seconds, one.duration_seconds) == (0.5, 0.75)
    assert (two.start_seconds, two.duration_seconds) == (2.0, 1.0)


def test_durations_that_kaldi_knows_are_not_measured(tmp_path, talk):
    folder = write_kaldi(tmp_path / "train", wav_scp=f"a {talk}\n", text="a one\n", utt2dur="a 3.99\n")
    assert read_kaldi(folder).utterances[0].duration_seconds == 3.99


BAD_KALDI = {
    "a command": ({"wav_scp": "a {talk}\nb rm -rf {talk} |\n"}, "wav.scp:2: commands are not run"),
    "another channel": ({"wav_scp": "a {talk}\nb sph2pipe -f wav -c 2 {talk} |\n"}, "commands are not run"),
    "a pipeline": ({"wav_scp": "a {talk}\nb cat {talk} | sox - |\n"}, "commands are not run"),
    "no recording": ({"wav_scp": "a {talk}\n"}, "text:2: b is not in wav.scp"),
    "no such file": (
        {"wav_scp": "a {talk}\nb gone.wav\n"},
        "wav.scp:2: the audio file gone.wav does not exist",
    ),
    "no words": ({"text": "a one\nb \n"}, "text:2: b has no words"),
    "no segment": ({"segments": "a a 0 1\n"}, "text:2: b is not in segments"),
    "no times": ({"segments": "a a 0 1\nb b\n"}, "segments:2: expected RECORDING START END"),
    "times in words": ({"segments": "a a 0 1\nb b zero one\n"}, "segments:2: 'zero' is no number"),
    "times reversed": ({"segments": "a a 0 1\nb b 2 1\n"}, "segments:2: ends at 1.0 s"),
    "no audio": ({"wav_scp": "a {talk}\nb {text}\n"}, "wav.scp:2: .*not audio"),
    "a bare pipe": ({"wav_scp": "a {talk}\nb |\n"}, "wav.scp:2: not a command"),
    "an open quote": ({"wav_scp": "a {talk}\nb cat '{talk} |\n"}, "wav.scp:2: not a command"),
    "of two channels": ({"wav_scp": "a {talk}\nb sph2pipe -f wav -c 1 {stereo} |\n"}, "one of 2 channels"),
    "no duration": ({"utt2dur": "a 4\nb 0\n"}, "utt2dur:2: 'duration' is 0"),
}


@pytest.mark.parametrize(("files", "what"), BAD_KALDI.values(), ids=BAD_KALDI)
def test_kaldi_lines_that_cannot_be_read_are_named_and_can_be_skipped(tmp_path, talk, files, what):
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "stereo.wav", np.zeros((RATE_HZ, 2)), RATE_HZ)
    good = {"wav_scp": "a {talk}\nb {talk}\n", "text": "a one\nb two\n"}
    written = {
        name: content.format(talk=talk, text=tmp_path / "text.wav", stereo=tmp_path / "stereo.wav")
        for name, content in {**good, **files}.items()
    }
    folder = write_kaldi(tmp_path / "train", **written)
    with pytest.raises(ManifestError, match=what):
        read_kaldi(folder)
    manifest = read_kaldi(folder, on_bad_data="skip")
    assert [one.id for one in manifest.utterances] == ["a"] and len(manifest.skipped) == 1


def test_a_repeated_key_and_a_missing_table(tmp_path, talk):
    folder = write_kaldi(tmp_path / "train", wav_scp=f"a {talk}\na {talk}\n", text="a one\n")
    with pytest.raises(ManifestError, match=r"wav\.scp:2: a was used before"):
        read_kaldi(folder)
    (folder / "text").unlink()
    (folder / "wav.scp").write_text(f"a {talk}\n")
    with pytest.raises(ManifestError, match="text: cannot be read"):
        read_kaldi(folder)


# NeMo --------------------------------------------------------------------------------------------


def test_nemo_segments(tmp_path, talk):
    entries = [
        {"audio_filepath": "talk.wav", "duration": 1.0, "text": "one", "offset": 1},
        {"audio_filepath": "talk.wav", "duration": 1.5, "text": "two", "offset": 2.5},
        {"audio_filepath": "talk.wav", "duration": 4.0, "text": "all", "offset": None},
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    utterances = read_manifest(path).utterances
    assert [one.id for one in utterances] == ["talk-0001000", "talk-0002500", "talk"]
    assert [one.start_seconds for one in utterances] == [1.0, 2.5, None]
    write_manifest(tmp_path / "again.jsonl", utterances)
    again = read_manifest(tmp_path / "again.jsonl").utterances
    assert [(one.id, one.start_seconds) for one in again] == [
        (one.id, one.start_seconds) for one in utterances
    ]


def test_a_gzipped_manifest(tmp_path, talk):
    entry = {"audio_filepath": "talk.wav", "duration": 4.0, "text": "all"}
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(entry).encode()))
    assert read_split(path).utterances[0].text == "all"
    assert find_splits(tmp_path) == {"train": path}


def test_an_offset_of_0_changes_no_name(tmp_path, talk):
    entry = {"audio_filepath": "talk.wav", "duration": 4.0, "text": "all", "offset": 0}
    (tmp_path / "train.jsonl").write_text(json.dumps(entry))
    [one] = read_manifest(tmp_path / "train.jsonl").utterances
    assert (one.id, one.start_seconds) == ("talk", 0.0)


# splits ------------------------------------------------------------------------------------------


def test_a_corpus_in_several_formats(tmp_path, talk, whole):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_kaldi(corpus / "train", wav_scp=f"a {talk}\n", text="a one\n")
    write_cuts(corpus / "dev_cuts.jsonl.gz", cut("s1", talk, 0.5, 1.0, 4.0))
    write_cuts(corpus / "cuts_test_clean.jsonl.gz", cut("s2", talk, 0.5, 1.0, 4.0))
    entry = {"audio_filepath": str(whole), "duration": 1.0, "text": "x"}
    (corpus / "test_other.jsonl").write_text(json.dumps(entry))
    (corpus / "notes").mkdir()
    assert set(find_splits(corpus)) == {"train", "dev", "test_clean", "test_other"}
    read = read_corpus(corpus)
    assert read.train.utterances[0].id == "a" and read.dev.utterances[0].id == "s1"
    assert set(read.test) == {"test_clean", "test_other"}
    assert read_corpus(corpus, with_test=False).test == {}


def test_a_split_that_is_there_twice(tmp_path, talk):
    write_cuts(tmp_path / "cuts_train.jsonl.gz", cut("s1", talk, 0.5, 1.0, 4.0))
    write_cuts(tmp_path / "train.jsonl", cut("s1", talk, 0.5, 1.0, 4.0))
    with pytest.raises(ManifestError, match=r"both cuts_train.jsonl.gz and train.jsonl are train"):
        find_splits(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    for name in ("notes.jsonl", "notes.jsonl.gz"):
        (tmp_path / name).touch()
    assert "train" in find_splits(tmp_path)  # what nobody takes may be there twice


def test_a_folder_that_is_no_split(tmp_path):
    with pytest.raises(ManifestError, match=r"without wav\.scp or shards\.jsonl\.gz is no split. Known are"):
        read_split(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"audio_filepath,duration,text\na.wav,1.0,yes\n",
        b'[{"audio_filepath": "a.wav"}]\n',
        b"PAR1\x15\x04\x15\xff",
    ],
    ids=["a table", "a list", "parquet"],
)
def test_a_manifest_in_an_unknown_format_is_named_with_its_line(tmp_path, content):
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(ManifestError, match=r"train.jsonl:1: .*(not JSON|not an object|not valid UTF-8).*"):
        read_split(tmp_path / "train.jsonl")


def test_a_corpus_in_an_unknown_format_is_told_which_are_known(tmp_path):
    (tmp_path / "train.csv").write_text("audio_filepath,duration,text\n")
    for data in (tmp_path, tmp_path / "train.csv"):
        with pytest.raises(
            BadDataError, match=r"no such manifest.*from_csv.py.*Lhotse's cuts.*Kaldi's data folders"
        ):
            read_corpus(data)
