"""One utterance's audio out of a shard: one read of a file, or one request to a web server. Nothing is kept.

The tar header before the audio is read along with it and must name the member, so that another shard of the same size
does not pass for this one. Left out: a connection that is kept open from one request to the next.
"""

from __future__ import annotations

import tarfile
import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from seqdsd.audio import AudioBytes, AudioError
from seqdsd.data.manifest import ShardMember

TIMEOUT_SECONDS = 30.0
PAUSES_SECONDS = (1.0, 5.0)
"""Before the second and the third try."""
_PASSING = (408, 429)
"""What a server answers, besides its own errors (500 and above), when it may answer otherwise later."""


class ServerError(AudioError):
    """A web server that does not give a shard as it should: not the fault of one utterance."""


def read_member(member: ShardMember) -> AudioBytes:
    """Read a member as it is in its shard.

    Raises:
        AudioError: Naming shard, member and remedy, if the shard cannot be read or is not the one that was indexed.
        ServerError: If a server does not answer, has no such shard, or does not send parts of files.
    """
    start, size = member.offset_bytes - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE + member.size_bytes
    is_remote = member.shard.location.startswith(("http://", "https://"))
    data = _fetched(member, start, size) if is_remote else _read(member, start, size)
    _check_header(member, data[: tarfile.BLOCKSIZE])
    return AudioBytes(str(member), data[tarfile.BLOCKSIZE :])


def header_of(block: bytes) -> tarfile.TarInfo:
    """Parse the 512 bytes before a member's content.

    Raises:
        tarfile.HeaderError: If they are no tar header.
    """
    return tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")


def _check_header(member: ShardMember, block: bytes) -> None:
    try:
        header = header_of(block)
    except tarfile.HeaderError:
        found = "there is no file's beginning"
    else:
        if (header.name, header.size) == (member.name, member.size_bytes):
            return
        found = f"{header.name}, {header.size:,} bytes, is there"
    raise AudioError(
        str(member),
        f"not where the index says ({found}): another shard than the one that was indexed",
        "Copy the shard again, or make the index anew: seqdsd shard --index FOLDER",
    )


def _read(member: ShardMember, start: int, size: int) -> bytes:
    try:
        with open(member.shard.location, "rb") as file:
            file.seek(start)
            data = file.read(size)
    except OSError as error:
        raise AudioError(
            str(member), f"the shard cannot be read ({error.strerror})", "Copy it there again"
        ) from error
    if len(data) < size:
        raise AudioError(str(member), "the shard ends before the member does", "Copy the shard again")
    return data


def _fetched(member: ShardMember, start: int, size: int) -> bytes:
    """Ask for a part of a shard; what may pass is tried three times."""
    problem: Exception | None = None
    for pause in (0.0, *PAUSES_SECONDS):
        time.sleep(pause)
        try:
            return _fetched_once(member, start, size)
        except HTTPError as error:
            with error:  # it holds the connection
                if error.code < 500 and error.code not in _PASSING:
                    raise _refusal(member, error) from error
            problem = error
        except (OSError, HTTPException) as error:  # no route, no answer in time, a broken connection
            problem = error
    raise ServerError(
        str(member),
        f"cannot be fetched, tried {1 + len(PAUSES_SECONDS)} times ({problem})",
        "Check the network and the server, then go on",
    )


def _fetched_once(member: ShardMember, start: int, size: int) -> bytes:
    wanted = {"Range": f"bytes={start}-{start + size - 1}"}
    with urlopen(Request(member.shard.location, headers=wanted), timeout=TIMEOUT_SECONDS) as response:
        if response.status != 206:
            raise ServerError(
                str(member),
                "the server sends whole files only (it ignores Range)",
                "Take a server that knows Range (nginx, Apache, a bucket), or copy the shards to a disk",
            )
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if total.isdecimal() and int(total) != member.shard.size_bytes:
            raise ServerError(
                str(member),
                f"the shard has {int(total):,} bytes on the server, {member.shard.size_bytes:,} by the index",
                "Upload it again, or fetch the index that belongs to it",
            )
        data = response.read(size)
    if len(data) < size:
        raise HTTPException(f"{len(data):,} bytes came instead of {size:,}")
    return data


def _refusal(member: ShardMember, error: HTTPError) -> ServerError:
    if error.code == 416:
        return ServerError(
            str(member), "the shard on the server ends before the member does", "Upload it again"
        )
    return ServerError(
        str(member),
        f"the server answers {error.code} {error.reason}",
        "See that the shard is there and may be read; if it lies elsewhere: seqdsd shard --index FOLDER --base URL",
    )
