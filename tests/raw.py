"""A client that sends what is written, byte by byte, and shows what comes: nothing in between normalises a path,
repeats a request, joins fields or decodes a body.

    answer = ask(served.url, "GET", "/r/http://host//a", ("Range", "bytes=0-9"))
    answer.status, answer.fields["content-range"], answer.body

    with dial(served.url, "GET", target) as answer:   # while it comes
        answer.read(10)                               # waits for so many bytes of the body
        answer.rest()                                 # to its end; `Cut` when there is none
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from origin import Fields, Pair

_TIMEOUT_S = 60.0
_LINE_BYTES = 1 << 16


class Cut(Exception):
    """The connection ended, or the framing broke, before the answer did. *body*: what came of its body."""

    def __init__(self, why: str, body: bytes = b"") -> None:
        super().__init__(f"{why} after {len(body)} bytes of body")
        self.body = body


class Malformed(Exception):
    """An answer that is no HTTP/1.1 (RFC 9112)."""


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer to its end."""

    status: int
    fields: Fields
    body: bytes
    version: str


class Coming:
    """An answer as it comes; a context manager. Leaving hangs up."""

    def __init__(self, sock: socket.socket, method: str) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")
        self._got = bytearray()
        self._read = 0
        self._ended = False
        try:
            self._head(method)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._sock.close()

    # --- the head --------------------------------------------------------------------------------------

    def _line(self) -> str:
        try:
            line = self._file.readline(_LINE_BYTES)
        except ConnectionError as error:
            raise Cut(str(error), bytes(self._got)) from error
        if not line.endswith(b"\r\n"):
            raise Cut(f"the connection ended at the line {line!r}", bytes(self._got))
        return line[:-2].decode("latin-1")

    def _head(self, method: str) -> None:
        self.interim: list[int] = []
        while True:
            self.version, self.status, self.fields = self._one_head()
            if self.status >= 200:
                break
            self.interim.append(self.status)
        self.chunked = self.fields.get("transfer-encoding", "").lower() == "chunked"
        lengths = self.fields.all("content-length")
        if len(lengths) > 1 or (lengths and not lengths[0].isdigit()):
            raise Malformed(f"Content-Length: {lengths}")
        if lengths and "transfer-encoding" in self.fields:
            raise Malformed("Content-Length beside Transfer-Encoding")
        self.length = int(lengths[0]) if lengths else None
        self._ended = method == "HEAD" or self.status in (204, 304) or self.length == 0

    def _one_head(self) -> tuple[str, int, Fields]:
        start = self._line()
        version, _, rest = start.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit() or rest[3:4] != " ":
            raise Malformed(f"the status line {start!r}")
        pairs: list[Pair] = []
        while line := self._line():
            name, colon, value = line.partition(":")
            if not colon or not name or name != name.strip():
                raise Malformed(f"the field line {line!r}")
            pairs.append((name, value.strip(" \t")))
        return version, int(rest[:3]), Fields(pairs)

    # --- the body --------------------------------------------------------------------------------------

    def read(self, size: int) -> bytes:
        """The next *size* bytes of the body, when they are there; fewer at its end."""
        while not self._ended and len(self._got) < self._read + size:
            self._more(self._read + size - len(self._got))
        data = bytes(self._got[self._read : self._read + size])
        self._read += len(data)
        return data

    def some(self) -> bytes:
        """What has come of the body since, or comes next: at least one byte, but at its end."""
        if not self._ended and self._read == len(self._got):
            self._more(1 << 16)
        data = bytes(self._got[self._read :])
        self._read = len(self._got)
        return data

    def rest(self) -> bytes:
        """All that is left of the body, when it is there. Raises `Cut`."""
        while not self._ended:
            self._more(1 << 20)
        data = bytes(self._got[self._read :])
        self._read = len(self._got)
        return data

    def _more(self, wanted: int) -> None:
        if self.chunked:
            self._chunk()
            return
        left = wanted if self.length is None else min(wanted, self.length - len(self._got))
        data = self._some(left)
        self._got += data
        if not data and self.length is not None:
            raise Cut(f"the connection ended instead of {self.length} bytes", bytes(self._got))
        self._ended = not data or len(self._got) == self.length

    def _some(self, most: int) -> bytes:
        try:
            return self._file.read1(most)
        except ConnectionError as error:
            raise Cut(str(error), bytes(self._got)) from error

    def _chunk(self) -> None:
        size = self._line().partition(";")[0]
        try:
            left = int(size, 16)
        except ValueError:
            raise Cut(f"a chunk of {size!r} bytes", bytes(self._got)) from None
        self._ended = left == 0
        while left:
            data = self._some(left)
            if not data:
                raise Cut("the connection ended in a chunk", bytes(self._got))
            self._got += data
            left -= len(data)
        if self._line():
            raise Malformed("a chunk without an end, or trailers")

    def whole(self) -> Whole:
        """The answer, when all of it is there."""
        return Whole(self.status, self.fields, self.rest(), self.version)


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a server's URL."""
    host, _, port = url.partition("://")[2].rpartition(":")
    return host, int(port)


def request(
    url: str, method: str, target: str | bytes, pairs: Iterable[Pair] = (), *, version: str = "HTTP/1.1"
) -> bytes:
    """The head of a request; Host is added unless it is among *pairs*."""
    fields = list(pairs)
    if not any(name.lower() == "host" for name, _ in fields):
        fields.insert(0, ("Host", url.partition("://")[2]))
    raw = target.encode("latin-1") if isinstance(target, str) else target
    lines = [f"{name}: {value}".encode("latin-1") for name, value in fields]
    return b"\r\n".join([b"%b %b %b" % (method.encode(), raw, version.encode()), *lines, b"", b""])


def dial(
    url: str,
    method: str,
    target: str | bytes,
    *pairs: Pair,
    version: str = "HTTP/1.1",
    body: bytes = b"",
    receive_buffer: int | None = None,
) -> Coming:
    """Send a request over a connection of its own; the answer as it comes, from when its head is there.
    *receive_buffer*: how much the system takes in unread, about."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(_TIMEOUT_S)
        sock.connect(address_of(url))
        sock.sendall(request(url, method, target, pairs, version=version) + body)
        return Coming(sock, method)
    except BaseException:
        sock.close()
        raise


def ask(
    url: str, method: str, target: str | bytes, *pairs: Pair, version: str = "HTTP/1.1", body: bytes = b""
) -> Whole:
    """Send a request, and wait for the whole answer. Raises `Cut`, `Malformed`."""
    with dial(url, method, target, *pairs, version=version, body=body) as coming:
        return coming.whole()


# --- a server of ours --------------------------------------------------------------------------------------


def digest_field(body: bytes) -> str:
    """The Repr-Digest of *body* (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


class Api:
    """A server, asked without anything in between; *token* goes with everything."""

    def __init__(self, served: Any, token: str | None = None) -> None:
        self.served = served
        self.fields = () if token is None else (("Authorization", f"Bearer {token}"),)

    def ask(self, method: str, target: str, *pairs: Pair, **how: Any) -> Whole:
        """The whole answer."""
        return ask(self.served.url, method, target, *self.fields, *pairs, **how)

    def dial(self, method: str, target: str, *pairs: Pair, **how: Any) -> Coming:
        """The answer as it comes."""
        return dial(self.served.url, method, target, *self.fields, *pairs, **how)

    def get(self, target: str, *pairs: Pair) -> Whole:
        """The whole answer to a GET."""
        return self.ask("GET", target, *pairs)

    def send(self, method: str, target: str, body: Any = None) -> Whole:
        """Ask with *body* as JSON."""
        if body is None:
            return self.ask(method, target)
        sent = json.dumps(body).encode()
        fields = (("Content-Type", "application/json"), ("Content-Length", str(len(sent))))
        return self.ask(method, target, *fields, body=sent)

    def json(self, method: str, target: str, body: Any = None) -> Any:
        """What the JSON API answers; it must be a success."""
        answer = self.send(method, target, body)
        assert answer.status < 300, answer
        return json.loads(answer.body) if answer.body else None

    def store(self, url: str, **spec: Any) -> str:
        """Fetch *url* and wait for the end; the path of its version's content."""
        made = self.json("PUT", "/v1/request/", {"url": url, **spec})
        return self.fetch(made["id"])

    def fetch(self, request_id: str, **ask: Any) -> str:
        """Fetch a Request if it is due, and wait for the end; the path of the content to use."""
        found = self.json("POST", f"/v1/request/{request_id}/fetch", {"wait_sec": 30, **ask})
        return f"/v1/request/{request_id}/response/v/{found['response']['version']}/content"


def problem(answer: Whole) -> tuple[int, str]:
    """Status and code of the problem document (RFC 9457) that *answer* is."""
    assert answer.fields["content-type"] == "application/problem+json", answer
    assert answer.fields["cache-control"] == "no-store"
    document = json.loads(answer.body)
    assert document["status"] == answer.status
    return answer.status, document["code"]
