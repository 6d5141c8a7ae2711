"""Damaged files of speech data: read, or refused by an error of ours that names the file; nothing else.

Good files are changed in a few places, as disks, networks and bad intent change them. What hypothesis draws is the same
each time.
"""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqdsd.audio import AudioBytes, AudioError, audio_seconds, read_audio, read_segment
from seqdsd.data import ManifestError, read_manifest
from seqdsd.data.lhotse import read_cuts
from seqdsd.data.shard_files import index_shard
from seqdsd.data.shards import INDEX_NAME, read_shards, write_index
from seqdsd.decode.ctc_lexicon import LanguageModelError, _check_arpa, read_arpa_words
from seqdsd.text.ngram import estimate_ngrams

FUZZ = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
INTERESTING = (
    b"\0",
    b"\xff",
    b"\0" * 4,
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80" + b"\0" * 3,
)
NUMBERS = (
    "1e999",
    "-1",
    "NaN",
    "true",
    "null",
    "9" * 400,
    "9" * 5000,
    "[" * 3000,
    '"x"',
    "{}",
    "1e-320",
    '"\\ud800"',
)


def sound(kind: str, subtype: str) -> bytes:
    file = io.BytesIO()
    samples = 0.3 * np.sin(np.arange(1600) / 9)
    soundfile.write(file, samples, 16_000, format=kind, subtype=subtype)
    return file.getvalue()


AUDIO = {
    name: sound(*kinds)
    for name, kinds in {
        "wav": ("WAV", "PCM_16"),
        "float": ("WAV", "FLOAT"),
        "flac": ("FLAC", "PCM_16"),
        "ogg": ("OGG", "VORBIS"),
        "aiff": ("AIFF", "PCM_16"),
        "caf": ("CAF", "PCM_16"),
        "sph": ("NIST", "PCM_16"),
    }.items()
}


@st.composite
def damaged(draw: st.DrawFn, data: bytes, *, head: int = 200) -> bytes:
    """Bits flipped, numbers overwritten and stretches cut out, in the first bytes more often than further on."""
    spoilt = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        if not spoilt:
            break
        last = len(spoilt) - 1
        at = draw(st.integers(0, min(head, last)) | st.integers(0, last))
        how = draw(st.sampled_from(("flip", "write", "cut", "end")))
        if how == "flip":
            spoilt[at] ^= 1 << draw(st.integers(0, 7))
        elif how == "write":
            nonsense = draw(st.sampled_from(INTERESTING))
            spoilt[at : at + len(nonsense)] = nonsense
        elif how == "cut":
            del spoilt[at : at + draw(st.integers(1, 64))]
        else:
            del spoilt[at:]
    return bytes(spoilt)


@pytest.mark.parametrize("name", AUDIO)
@FUZZ
@given(data=st.data())
def test_audio(name, data):
    audio = AudioBytes("the file", data.draw(damaged(AUDIO[name])))
    for read in (
        audio_seconds,
        lambda audio: read_audio(audio, expected_seconds=0.1),
        lambda audio: read_segment(audio, start_seconds=0.02, seconds=0.05),
    ):
        try:
            found = read(audio)
        except AudioError as error:
            assert str(error).startswith("the file: ")
        else:
            if not isinstance(found, float):
                assert found.samples.isfinite().all() and 0 < len(found.samples) < 20_000


@st.composite
def damaged_lines(draw: st.DrawFn, lines: list[dict]) -> bytes:
    """One value replaced by nonsense in the text of the JSON; or bytes damaged."""
    text = [json.dumps(one) for one in lines]
    if draw(st.booleans()):
        number = draw(st.integers(0, len(lines) - 1))
        key = draw(st.sampled_from(sorted(lines[number])))
        nonsense = draw(st.sampled_from(NUMBERS))
        text[number] = text[number].replace(json.dumps(lines[number][key]), nonsense, 1)
        return "\n".join(text).encode()
    return draw(damaged("\n".join(text).encode(), head=100))


def refused_or_read(read, path):
    for on_bad_data in ("error", "skip"):
        try:
            manifest = read(path, on_bad_data=on_bad_data)
        except ManifestError as error:
            manifest = None
            messages = [str(error)]
        else:
            messages = manifest.skipped
        for message in messages:
            message.encode()
            assert path.name in message or str(path) in message
        for one in manifest.utterances if manifest else ():
            f"{one.id}{one.text}{one.speaker}{one.audio_path}".encode()
            assert 0 < one.duration_seconds < 1e9


def manifest_lines(folder):
    (folder / "a.wav").write_bytes(AUDIO["wav"])
    (folder / "b.wav").write_bytes(AUDIO["wav"])
    return [
        {"audio_filepath": "a.wav", "duration": 1.5, "text": "yes", "id": "one", "speaker": "ann"},
        {"audio_filepath": "b.wav", "duration": 2.5, "text": "no", "offset": 0.5},
    ]


def cut_lines(folder):
    (folder / "a.wav").write_bytes(AUDIO["wav"])
    source = {"type": "file", "channels": [0], "source": str(folder / "a.wav")}
    recording = {"id": "a", "sources": [source], "duration": 4.0}
    cut = {"start": 0.5, "duration": 1.25, "recording": recording, "supervisions": [{"text": "yes"}]}
    return [{"id": "one", "type": "MonoCut", **cut}, {"id": "two", **cut, "start": 2.5}]


@pytest.mark.parametrize("read, lines", [(read_manifest, manifest_lines), (read_cuts, cut_lines)])
@FUZZ
@given(data=st.data())
def test_manifests_and_cuts(tmp_path, read, lines, data):
    content = data.draw(damaged_lines(lines(tmp_path)))
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    refused_or_read(read, path)


def write_shard(folder) -> bytes:
    with tarfile.open(folder / "000000.tar", "w") as tar:
        for key in ("one", "two"):
            for suffix, content in (("wav", AUDIO["wav"]), ("json", b'{"text": "yes", "duration": 0.1}')):
                header = tarfile.TarInfo(f"{key}.{suffix}")
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
    return (folder / "000000.tar").read_bytes()


@FUZZ
@given(data=st.data())
def test_tar_files(tmp_path, data):
    path = tmp_path / "000000.tar"
    path.write_bytes(data.draw(damaged(write_shard(tmp_path), head=512)))
    for on_bad_data in ("error", "skip"):
        try:
            utterances, skipped = index_shard(path, 0, on_bad_data=on_bad_data)
        except ManifestError as error:
            skipped, utterances = [str(error)], []
        assert all(str(path) in message for message in skipped)
        for one in utterances:
            f"{one.id}{one.text}{one.member}".encode()


@FUZZ
@given(data=st.data())
def test_indices(tmp_path, data):
    write_shard(tmp_path)
    write_index(tmp_path, index_shard(tmp_path / "000000.tar", 0)[0])
    path = tmp_path / INDEX_NAME
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    if data.draw(st.booleans()):
        path.write_bytes(gzip.compress(data.draw(damaged_lines(lines))))
    else:
        path.write_bytes(data.draw(damaged(path.read_bytes())))
    refused_or_read(lambda path, on_bad_data: read_shards(path.parent, on_bad_data=on_bad_data), path)


@FUZZ
@given(data=st.data())
def test_arpa_files(tmp_path, data):
    """Up to where KenLM would take over."""
    path = tmp_path / "lm.arpa"
    path.write_bytes(
        data.draw(damaged(estimate_ngrams(["yes no", "no yes"], order=2).arpa().encode(), head=60))
    )
    try:
        assert read_arpa_words(path)
        _check_arpa(path)
    except LanguageModelError as error:
        assert "lm.arpa" in str(error)
