"""One utterance's audio out of a shard: one read of a file, or one request to a web server. Nothing is kept.

The tar header before the audio is read along with it and must name the member, so that another shard of the same size
does not pass for this one. Left out: a connection that is kept open from one request to the next.
"""

from __future__ import annotations

import functools
import socket
import ssl
import tarfile
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection
from typing import Any
from urllib import request as urllib_request
from urllib.error import HTTPError
from urllib.request import Request

from seqdsd.audio import AudioBytes, AudioError
from seqdsd.data.manifest import ShardMember

TIMEOUT_SECONDS = 30.0
"""Until a server says something; and, beside the time that the bytes may take, for a whole request."""
MIN_BYTES_PER_SECOND = 10_000
"""A server that is slower than this does not feed a training run; redirects and headers count, too."""
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
    with _Deadline(TIMEOUT_SECONDS + size / MIN_BYTES_PER_SECOND) as deadline:
        try:
            return _answer(
                member, _opener(member, deadline), Request(member.shard.location, headers=wanted), size
            )
        except (OSError, HTTPException) as error:
            if deadline.is_over and not isinstance(error, HTTPError):
                raise TimeoutError(f"{size:,} bytes did not come within {deadline.seconds:.0f} s") from error
            raise


def _answer(member: ShardMember, opener: urllib_request.OpenerDirector, request: Request, size: int) -> bytes:
    with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
        if response.status != 206:
            raise ServerError(
                str(member),
                "the server sends whole files only (it ignores Range)",
                "Take a server that knows Range (nginx, Apache, a bucket), or copy the shards to a disk",
            )
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        if total.isdecimal() and total.lstrip("0") != str(member.shard.size_bytes):
            raise ServerError(
                str(member),
                f"the shard has {int(total[:20]):,} bytes on the server, {member.shard.size_bytes:,} by the index",
                "Upload it again, or fetch the index that belongs to it",
            )
        data = response.read(size)
    if len(data) < size:
        raise HTTPException(f"{len(data):,} bytes came instead of {size:,}")
    return data


class _Deadline:
    """Cuts a request's connections once its time is over: a server that sends a byte now and then keeps no timeout."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_over = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()

    def watch(self, connection: socket.socket) -> None:
        self._sockets.append(connection)
        if self.is_over:
            self._cut()

    def _cut(self) -> None:
        self.is_over = True
        for one in self._sockets:
            with suppress(OSError):
                socket.socket.shutdown(one, socket.SHUT_RDWR)  # not TLS's own, which would wait for an answer


def _opener(member: ShardMember, deadline: _Deadline) -> urllib_request.OpenerDirector:
    """Of http and https alone, redirects included; through the proxies that the environment names."""

    class Connection(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            deadline.watch(self.sock)

    class SecureConnection(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            deadline.watch(self.sock)

    class Http(urllib_request.HTTPHandler):
        def http_open(self, req: Request) -> HTTPResponse:
            return self.do_open(Connection, req)

    class Https(urllib_request.HTTPSHandler):
        def https_open(self, req: Request) -> HTTPResponse:
            return self.do_open(SecureConnection, req, context=_tls())

    class Redirects(urllib_request.HTTPRedirectHandler):
        def redirect_request(
            self, req: Request, fp: Any, code: int, msg: str, headers: HTTPMessage, newurl: str
        ) -> Request | None:
            if not newurl.lower().startswith(("http://", "https://")):
                fp.close()
                raise ServerError(
                    str(member),
                    f"the server redirects to {newurl[:200]!r}, and only http and https are fetched",
                    "Name where the shards lie: seqdsd shard --index FOLDER --base URL",
                )
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    opener = urllib_request.OpenerDirector()
    for handler in (
        urllib_request.ProxyHandler(),
        Http(),
        Https(context=_tls()),
        Redirects(),
        urllib_request.HTTPDefaultErrorHandler(),
        urllib_request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: it reads the system's certificates."""
    return ssl.create_default_context()


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
