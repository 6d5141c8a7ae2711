"""Utterances in tar shards: the index, the bytes, others' shards, and a web server that serves them in parts."""

import gzip
import io
import json
import shutil
import tarfile
import threading
import time
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from seqdsd.data import (
    BadExample,
    ManifestError,
    SpeechDataset,
    find_splits,
    load_batches,
    read_manifest,
    read_split,
    shard_bytes,
    write_manifest,
)
from seqdsd.data.shard_bytes import ServerError, read_member
from seqdsd.data.shard_files import ShardEntry, index_shard, safe_key, write_shards
from seqdsd.data.shards import INDEX_NAME, read_shards, write_index
from seqdsd.text import CharacterTokenizer

TOKENIZER = CharacterTokenizer()
RATE_HZ = 16_000


def shard(utterances, folder: Path, *, shard_bytes: int = 150_000) -> Path:
    """Whole files in their order; about five tones a shard."""
    folder.mkdir()
    entries = (ShardEntry(one, ".wav", Path(one.audio_path).read_bytes()) for one in utterances)
    found = []
    for number, path in enumerate(write_shards(folder, entries, shard_bytes=shard_bytes)):
        found += index_shard(path, number)[0]
    write_index(folder, found)
    return folder


@pytest.fixture
def files(tone_corpus):
    return read_manifest(tone_corpus.folder / "train.jsonl").utterances


@pytest.fixture
def folder(files, tmp_path) -> Path:
    return shard(files, tmp_path / "train")


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress((folder / INDEX_NAME).read_bytes()).splitlines()]


def rewrite(folder: Path, lines: list) -> None:
    """Dicts as JSON, strings as they are."""
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    (folder / INDEX_NAME).write_bytes(gzip.compress(text.encode()))


# reading -----------------------------------------------------------------------------------------


def test_utterances_come_out_as_they_went_in(files, folder):
    assert find_splits(folder.parent)["train"] == folder
    read = read_split(folder).utterances
    assert [(one.id, one.text, one.duration_seconds, one.speaker) for one in read] == [
        (one.id, one.text, one.duration_seconds, one.speaker) for one in files
    ]
    assert read[0].source == f"train/{INDEX_NAME}:3"
    for one, original in zip(read, files, strict=True):
        assert read_member(one.member).data == Path(original.audio_path).read_bytes()
    assert len({id(one.member.shard) for one in read}) == len(list(folder.glob("*.tar"))) > 3


def test_the_dataset_reads_the_same_samples_in_workers_too(files, folder):
    read = read_split(folder).utterances
    for num_workers in (0, 2):
        [mine], [theirs] = (
            list(load_batches(SpeechDataset(these, TOKENIZER), [range(24)], num_workers=num_workers))
            for these in (read, files)
        )
        assert mine.texts == theirs.texts and mine.ids == theirs.ids and not mine.bad
        assert np.array_equal(mine.waveforms, theirs.waveforms)


def test_a_folder_of_shards_can_be_moved(folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    one = read_split(tmp_path / "elsewhere").utterances[-1]
    assert one.audio_path.startswith(str(tmp_path / "elsewhere")) and read_member(one.member).data


def test_what_lies_in_a_shard_is_no_manifest_s(folder, tmp_path):
    with pytest.raises(ValueError, match=r"train00 lies in a shard \(.*000000\.tar: member train00\.wav\)"):
        write_manifest(tmp_path / "train.jsonl", read_split(folder).utterances)


# an index that cannot be used --------------------------------------------------------------------


BAD_LINES = {
    "no JSON": ("{", "not JSON"),
    "a list": ([1], "not an object"),
    "a missing key": ({"id": "x", "text": "bad"}, "the key 'duration' is missing"),
    "no id": ({"id": None}, "'id' or 'member' is null"),
    "an id used before": ({"id": "train00"}, "'train00' was used on line 3 already"),
    "no text": ({"text": " "}, "'text' is ' '"),
    "no duration": ({"duration": 0}, "'duration' is 0"),
    "an unknown shard": ({"shard": "9.tar"}, "no line before names the shard '9.tar'"),
    "a shard in numbers": ({"shard": [0]}, "no line before names the shard"),
    "an offset in words": ({"offset": "512"}, "'offset' is '512'"),
    "an offset in a header": ({"offset": 511}, "lie outside"),
    "beyond the shard": ({"size_bytes": 10**9}, "1,000,000,000 bytes from .* lie outside 000000.tar"),
    "no bytes": ({"size_bytes": 0}, "'size_bytes' is 0"),
}


@pytest.mark.parametrize(("changes", "what"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_of_an_utterance_is_named_and_can_be_skipped(folder, changes, what):
    lines = lines_of(folder)
    is_whole = not isinstance(changes, dict) or "text" in changes and "id" in changes
    lines[3] = changes if is_whole else {**lines[3], **changes}
    rewrite(folder, lines)
    with pytest.raises(ManifestError, match=rf"{folder / INDEX_NAME}:4: .*{what}.*\. \w"):
        read_split(folder)
    manifest = read_split(folder, on_bad_data="skip")
    assert len(manifest.utterances) == 23 and len(manifest.skipped) == 1


BAD_SHARD_LINES = {
    "no format": (0, {"format": None}, "its format is None, not 'seqdsd-shards-1'"),
    "no URL": (0, {"base": "ftp://here"}, r"shards\.jsonl\.gz:1: base: 'ftp://here' is no folder's URL"),
    "a URL in numbers": (0, {"base": 5}, "'base' is 5"),
    "another folder": (1, {"file": "../000000.tar"}, "not the name of a file"),
    "no size": (1, {"size_bytes": None}, "'size_bytes' is None"),
    "a shard twice": (2, {"file": "000000.tar", "size_bytes": ...}, "named before"),
}


@pytest.mark.parametrize("on_bad_data", ["error", "skip"])
@pytest.mark.parametrize(("line", "changes", "what"), BAD_SHARD_LINES.values(), ids=BAD_SHARD_LINES)
def test_a_bad_line_of_a_shard_cannot_be_skipped(folder, line, changes, what, on_bad_data):
    lines = lines_of(folder)
    if line == 2:
        lines.insert(2, lines[1])
    else:
        lines[line] = {**lines[line], **changes}
    rewrite(folder, lines)
    with pytest.raises(ManifestError, match=what):
        read_split(folder, on_bad_data=on_bad_data)


@pytest.mark.parametrize("spoil", [lambda data: data[:-20], lambda data: b"no gzip"])
def test_a_damaged_index(folder, spoil):
    path = folder / INDEX_NAME
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ManifestError, match=rf"{path}: cannot be read .*Copy it again"):
        read_split(folder)


def test_an_empty_index(folder):
    rewrite(folder, [])
    with pytest.raises(ManifestError, match=rf"{INDEX_NAME}:1: not an index.*seqdsd shard --index"):
        read_split(folder)
    rewrite(folder, [{"format": "seqdsd-shards-1"}, "{"])
    with pytest.raises(ManifestError, match=r"no usable utterance.*The first line: .*:2: not JSON"):
        read_split(folder, on_bad_data="skip")


def test_a_shard_that_is_missing_or_of_another_size_is_named_at_the_start(folder):
    path = folder / "000002.tar"
    content = path.read_bytes()
    path.write_bytes(content[:-512])
    sizes = f"{len(content) - 512:,} bytes, {len(content):,} by the index"
    with pytest.raises(
        ManifestError, match=rf"{INDEX_NAME}:\d+: the shard {path} has {sizes}\. Copy it again"
    ):
        read_split(folder, on_bad_data="skip")
    path.unlink()
    with pytest.raises(ManifestError, match=rf"the shard {path} cannot be found .*--base URL"):
        read_split(folder)


# shards that change once the index is read ---------------------------------------------------------


def bad_example(utterance) -> str:
    bad = SpeechDataset([utterance], TOKENIZER)[0]
    assert isinstance(bad, BadExample) and bad.id == utterance.id
    start = f"{utterance.source}: utterance {utterance.id}: {utterance.audio_path}: member {utterance.member.name}: "
    assert bad.message.startswith(start)
    return bad.message.removeprefix(start)


def test_another_shard_of_the_same_size_is_noticed(folder):
    first = read_split(folder).utterances[0]
    path = Path(first.audio_path)
    with tarfile.open(path) as tar:
        [second, *_] = (one for one in tar if one.name not in (first.member.name, "train00.json"))
    content = bytearray(path.read_bytes())
    start = first.member.offset_bytes
    header = slice(second.offset_data - 512, second.offset_data)
    content[start - 512 : start] = content[header]
    path.write_bytes(content)
    message = bad_example(first)
    assert f"({second.name}, {second.size:,} bytes, is there): another shard" in message
    assert "Copy the shard again" in message
    content[start - 512 : start] = b"x" * 512
    path.write_bytes(content)
    assert "there is no file's beginning" in bad_example(first)


def test_a_shard_that_is_cut_or_gone_while_it_is_read(folder):
    first = read_split(folder).utterances[0]
    path = Path(first.audio_path)
    path.write_bytes(path.read_bytes()[:1000])
    assert "the shard ends before the member does. Copy the shard again" in bad_example(first)
    path.unlink()
    assert "the shard cannot be read (No such file or directory). Copy it there again" in bad_example(first)


def test_damaged_audio_in_a_shard_is_named_as_in_a_file(folder):
    first = read_split(folder).utterances[0]
    path = Path(first.audio_path)
    content = bytearray(path.read_bytes())
    content[first.member.offset_bytes : first.member.offset_bytes + 100] = b"x" * 100
    path.write_bytes(content)
    assert bad_example(first).startswith("not audio, or damaged")
    assert bad_example(replace(read_split(folder).utterances[1], duration_seconds=9.0)).startswith(
        "truncated"
    )


# writing -----------------------------------------------------------------------------------------


def test_the_layout_is_webdataset_s(files, folder):
    """Pairs of one key, one right after the other; plain headers, equal everywhere."""
    names = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            for audio, about in zip(members[::2], members[1::2], strict=True):
                assert audio.name.endswith(".wav") and about.name == audio.name.replace(".wav", ".json")
                assert (audio.mtime, audio.uid, audio.uname, audio.pax_headers) == (0, 0, "", {})
                entry = json.load(tar.extractfile(about))
                assert set(entry) == {"id", "text", "duration"}
                names.append((audio.name, entry["text"]))
    assert names == [(f"{one.id}.wav", one.text) for one in files]
    assert len(list(folder.iterdir())) == 1 + len(list(folder.glob("*.tar")))  # nothing temporary is left


def test_the_same_utterances_give_the_same_bytes(files, folder, tmp_path):
    other = shard(files, tmp_path / "again")
    for path in folder.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_nothing_is_left_of_a_shard_that_could_not_be_finished(files, tmp_path):
    def entries():
        yield ShardEntry(files[0], ".wav", b"audio")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(write_shards(tmp_path, entries(), shard_bytes=10**6))
    assert not list(tmp_path.glob("*.tar")) + list(tmp_path.glob(".*"))


def test_ids_that_no_key_can_have_stay_in_the_json(files, tmp_path):
    """Dots end a key, slashes are folders, and a header has room for 100 bytes."""
    ids = ["a.b", "a/b", "a_b", "a b", "ß", "語" * 60, "x" * 300, "y" * 300, "x" * 80, ".hidden", "../up"]
    named = [replace(one, id=id_, speaker="ann") for one, id_ in zip(files, ids, strict=False)]
    folder = shard(named, tmp_path / "odd")
    read = read_split(folder).utterances
    assert [one.id for one in read] == ids and {one.speaker for one in read} == {"ann"}
    keys = [one.member.name.removesuffix(".wav") for one in read]
    assert len(set(keys)) == len(ids) and keys == [safe_key(id_) for id_ in ids]
    assert all(key.isascii() and len(key) < 90 and "." not in key and "/" not in key for key in keys)
    assert keys[2] == "a_b" and keys[8] == "x" * 80
    assert all(read_member(one.member).data for one in read)


# others' shards ----------------------------------------------------------------------------------


def tone(seconds: float = 0.5, kind: str = "FLAC") -> bytes:
    data = io.BytesIO()
    soundfile.write(data, 0.1 * np.sin(np.arange(round(seconds * RATE_HZ)) / 9), RATE_HZ, format=kind)
    return data.getvalue()


def write_tar(path: Path, files: dict[str, bytes], *, format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in files.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_shards_of_others(tmp_path, format):
    path = write_tar(
        tmp_path / "a.tar",
        {
            "one.flac": tone(),
            "one.txt": b"first\n",
            "talks/two.json": b'{"text": "second", "speaker": 7, "id": "no. 2"}',
            "talks/two.WAV": tone(0.75, "WAV"),
            "three.cls": b"5",
            "three.mp3": tone(1.0, "MP3"),
            "three.json": b'{"text": "third", "duration": 1.0}',
            "three.txt": b"not this",
            "._three.flac": b"resource fork",
            f"{'k' * 60}/{'m' * 75}.ogg": tone(0.5, "OGG"),
            f"{'k' * 60}/{'m' * 75}.txt": "fünfter".encode(),
        },
        format=format,
    )
    utterances, skipped = index_shard(path, 0)
    assert skipped == []
    one, two, three, four = utterances
    assert (one.id, one.text, one.duration_seconds, one.speaker) == ("one", "first", 0.5, None)
    assert (two.id, two.text, two.duration_seconds, two.speaker) == ("no. 2", "second", 0.75, "7")
    assert (three.text, three.duration_seconds, three.member.name) == ("third", 1.0, "three.mp3")
    assert four.id == f"{'k' * 60}/{'m' * 75}" and four.text == "fünfter"
    write_index(tmp_path, utterances)
    for example in map(SpeechDataset(read_shards(tmp_path).utterances, TOKENIZER)._read, utterances):
        assert 0.09 < example.samples.abs().max() < 0.12


BAD_KEYS = {
    "no transcript": ({"b.flac": tone()}, "b: no transcript. Every key needs KEY.json"),
    "no text in it": ({"b.flac": tone(), "b.json": b'{"duration": 1}'}, "b: no transcript"),
    "an empty text": ({"b.flac": tone(), "b.txt": b" \n"}, "b: 'text' is ''"),
    "a text of bytes": ({"b.flac": tone(), "b.txt": b"\xff"}, "b.txt: not valid UTF-8"),
    "no JSON": ({"b.flac": tone(), "b.json": b"{"}, "b.json:1: not JSON"),
    "no audio": ({"b.jpg": b"", "b.txt": b"bad"}, r"b: no audio files \(there: b.jpg, b.txt\)"),
    "two of them": ({"b.flac": tone(), "b.wav": tone(), "b.txt": b"bad"}, "b: 2 audio files"),
    "damaged audio": ({"b.flac": b"x" * 999, "b.txt": b"bad"}, "b: b.flac: not audio"),
    "no duration": (
        {"b.flac": tone(), "b.json": b'{"text": "bad", "duration": "1"}'},
        "b: 'duration' is '1'",
    ),
}


@pytest.mark.parametrize(("files", "what"), BAD_KEYS.values(), ids=BAD_KEYS)
def test_keys_that_are_no_utterance_are_named_and_can_be_skipped(tmp_path, files, what):
    path = write_tar(tmp_path / "a.tar", {"a.flac": tone(), "a.txt": b"bad", **files})
    with pytest.raises(ManifestError, match=rf"{path}: {what}"):
        index_shard(path, 0)
    utterances, skipped = index_shard(path, 0, on_bad_data="skip")
    assert [one.id for one in utterances] == ["a"] and len(skipped) == 1


def test_tar_files_that_cannot_be_looked_through(tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"{i}.{kind}": b"bad" for i in range(9) for kind in ("txt", "wav")})
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[4 * 1024] ^= 1  # in the name of the fifth file
    for spoilt in (b"", b"no tar" * 999, gzip.compress(content), content[:5000], bytes(damaged)):
        path.write_bytes(spoilt)
        with pytest.raises(ManifestError, match=rf"{path}: not a tar file, or damaged .*unpack it"):
            index_shard(path, 0, on_bad_data="skip")


# a web server ------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Serves a folder, in parts where it ``knows_range``; the first ``failures`` requests it fails."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.knows_range, self.failures = folder, True, []
        self.requests: list[tuple[str, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers["Range"]))
        path = self.server.folder / self.path.lstrip("/")
        if self.server.failures:
            failure = self.server.failures.pop(0)
            return self.send_error(failure) if failure else self.connection.close()
        if not path.is_file():
            return self.send_error(404)
        data = path.read_bytes()
        if not self.server.knows_range:
            return self._send(200, data, [])
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        if last >= len(data):
            return self.send_error(416)
        self._send(206, data[first : last + 1], [("Content-Range", f"bytes {first}-{last}/{len(data)}")])

    def _send(self, status: int, data: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in [("Content-Length", str(len(data))), *headers]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(shard_bytes, "PAUSES_SECONDS", (0.0, 0.0))
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def remote(folder, server, tmp_path):
    """The utterances of a folder that has nothing but an index."""
    (tmp_path / "remote").mkdir()
    write_index(tmp_path / "remote", read_split(folder).utterances, base=f"{server.url}/")
    return read_split(tmp_path / "remote").utterances


def test_shards_on_a_web_server_are_read_in_parts(folder, server, remote):
    assert not server.requests  # to read the index nothing is fetched
    for one, other in zip(remote, read_split(folder).utterances, strict=True):
        assert read_member(one.member).data == read_member(other.member).data
    member = remote[0].member
    part = f"bytes={member.offset_bytes - 512}-{member.offset_bytes + member.size_bytes - 1}"
    assert server.requests[0] == ("/000000.tar", part) and len(server.requests) == 24
    [batch] = load_batches(SpeechDataset(remote, TOKENIZER), [range(24)], num_workers=2)
    assert len(batch) == 24 and not batch.bad


@pytest.mark.parametrize("failures", [[503, 429], [None, 500]])
def test_what_passes_is_tried_again(server, remote, failures):
    server.failures = list(failures)
    assert read_member(remote[0].member).data and len(server.requests) == 3


@pytest.mark.parametrize(
    ("failures", "what", "num_requests"),
    [
        ([404], r"the server answers 404 Not Found\. See that the shard is there", 1),
        ([403], "the server answers 403 Forbidden", 1),
        ([416], "the shard on the server ends before the member does. Upload it again", 1),
        ([503, 503, 503], r"tried 3 times \(HTTP Error 503.*\. Check the network", 3),
        ([None, None, None], r"cannot be fetched, tried 3 times", 3),
    ],
)
def test_what_does_not_pass_is_said(server, remote, failures, what, num_requests):
    server.failures = list(failures)
    url = rf"{server.url}/000000\.tar: member train00\.wav: "
    with pytest.raises(ServerError, match=url + rf".*{what}"):
        read_member(remote[0].member)
    assert len(server.requests) == num_requests


def test_a_server_that_sends_whole_files_is_refused(server, remote):
    server.knows_range = False
    assert "the server sends whole files only (it ignores Range)" in bad_example(remote[0])


def test_another_shard_on_the_server(server, remote):
    path = server.folder / "000000.tar"
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    message = bad_example(remote[0])
    assert (
        f"the shard has {path.stat().st_size:,} bytes on the server, {path.stat().st_size - 512:,} by"
        in message
    )
    path.write_bytes(b"x" * (path.stat().st_size - 512))
    assert "another shard than the one that was indexed" in bad_example(remote[0])


def test_no_server_at_all(server, remote, monkeypatch):
    """The first utterance of a batch finds out, and the others do not wait for it as well."""
    server.shutdown()
    server.server_close()
    assert "Connection refused" in bad_example(remote[0])
    pauses = []
    monkeypatch.setattr(shard_bytes, "time", SimpleNamespace(sleep=pauses.append))
    [batch] = load_batches(SpeechDataset(remote, TOKENIZER), [range(24)], num_workers=0)
    assert len(batch) == 0 and [bad.is_outage for bad in batch.bad] == [True] and len(pauses) == 3


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(remote, server, monkeypatch):
    """Each byte comes well within the timeout; all of them would take hours. Headers are no way around."""
    monkeypatch.setattr(shard_bytes, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(shard_bytes, "MIN_BYTES_PER_SECOND", 1e6)
    for slow in ("headers", "body"):

        def drip(handler, status, data, headers, slow=slow):
            if slow == "body":
                handler.send_response(status)
                handler.send_header("Content-Length", str(len(data)))
                handler.end_headers()
            with suppress(OSError):
                for byte in data if slow == "body" else b"HTTP/1.1 206 " + b"x" * 10_000:
                    handler.wfile.write(bytes([byte]))
                    time.sleep(0.05)

        monkeypatch.setattr(_Handler, "_send", drip)
        started = time.monotonic()
        with pytest.raises(ServerError, match=r"tried 3 times \(.* bytes did not come within 0 s\)"):
            read_member(remote[0].member)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("ftp://127.0.0.1/x.tar", "redirects to 'ftp://127.0.0.1/x.tar', and only http and https"),
        ("file:///etc/hostname", "not allowed"),
    ],
)
def test_redirects_to_anything_but_http_are_refused(remote, monkeypatch, url, what):
    def redirect(handler, status, data, headers):
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.end_headers()

    monkeypatch.setattr(_Handler, "_send", redirect)
    with pytest.raises(ServerError, match=what):
        read_member(remote[0].member)


def test_redirects_to_http_are_followed(remote, server, monkeypatch):
    send, seen = _Handler._send, []

    def redirect_once(handler, status, data, headers):
        if seen:
            return send(handler, status, data, headers)
        seen.append(handler.path)
        handler.send_response(302)
        handler.send_header("Location", f"{server.url}{handler.path}")
        handler.end_headers()

    monkeypatch.setattr(_Handler, "_send", redirect_once)
    assert read_member(remote[0].member).data and len(server.requests) == 2
