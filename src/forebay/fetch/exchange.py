"""One exchange with an origin over libcurl: what is sent, what comes back, and what libcurl's verdict means.

libcurl's callbacks gather body bytes into blocks and do nothing else. This module and `forebay.fetch.transport`
are the only importers of the client library.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Protocol

import pycurl

from forebay.core.exchange import Failed, Head, Send
from forebay.core.fields import Fields
from forebay.core.urls import show_url
from forebay.fetch.gate import Gate, Refusal

BLOCK_BYTES = 1 << 20
# All fields of one answer. libcurl stops at 300 KiB; nothing honest comes near.
MAX_HEAD_BYTES = 128 * 1024
# A body that is not wanted and is no longer than this is read to its end: the connection stays usable.
DRAIN_BYTES = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/[0-9.]+ ([0-9]{3})")


class Take(Enum):
    """What to do with the body of an answer."""

    WRITE = "write"
    DISCARD = "discard"


class Sink(Protocol):
    """Who an exchange reports to, in the transport's thread."""

    def on_head(self, head: Head) -> Take:
        """The final status line and fields are here."""
        ...

    def on_block(self, block: bytearray, size: int) -> None:
        """The first *size* bytes of *block* are the next of the body. The block is the sink's until it gives
        it back with `Transport.recycle`."""
        ...

    def on_end(self, failure: Failed | None) -> None:
        """The exchange is over: nothing more comes. ``failure.length`` is 0; the sink knows better."""
        ...


class Loop(Protocol):
    """What an exchange needs of the loop that it runs in. *now*: of a clock that never jumps."""

    now: float

    def take_block(self, expected: int | None) -> bytearray:
        """An empty block; a small one for a body that is *expected* to be small."""
        ...

    def gate_for(self, proxy: str) -> Gate:
        """The gate that is asked before a connection."""
        ...

    def finish(self, exchange: Exchange, verdict: tuple[int, str] | None) -> None:
        """Take *exchange* out of the loop."""
        ...


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """How exchanges are made. *proxy*: ``""`` none, ``"environment"`` as that says, else its URL."""

    user_agent: str
    connect_timeout_s: float = 30.0
    stall_bytes_per_s: int = 64
    stall_window_s: float = 60.0
    proxy: str = ""
    ca_file: str | None = None


class _Handed(socket.socket):
    """A socket for pycurl, which duplicates its descriptor when the callback returns and drops this one."""

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it could not even be made
            self.close()


class Exchange:
    """One request to an origin and its answer, under way."""

    __slots__ = (
        "_block",
        "_ended",
        "_expected",
        "_fill",
        "_head",
        "_head_bytes",
        "_head_done",
        "_loop",
        "_proxy",
        "_reason",
        "_refusals",
        "_send",
        "_sink",
        "_status",
        "_take",
        "_unwanted",
        "_window_at",
        "_window_bytes",
        "curl",
    )  # fmt: skip

    def __init__(self, loop: Loop, send: Send, sink: Sink, curl: pycurl.Curl, *, proxy: str) -> None:
        self._loop, self._send, self._sink, self.curl = loop, send, sink, curl
        self._proxy = proxy
        self._head: list[tuple[str, str]] = []
        self._head_bytes = 0
        self._head_done = False
        self._status = 0
        self._take = Take.DISCARD
        self._unwanted = 0
        self._expected: int | None = None
        self._block: bytearray | None = None
        self._fill = 0
        self._window_at = loop.now
        self._window_bytes = 0
        self._refusals: list[Refusal] = []
        self._reason: Failed | None = None
        self._ended = False

    def set_up(self, settings: TransportSettings) -> None:
        """Tell libcurl what to send, and whom to call."""
        curl, send = self.curl, self._send
        curl.setopt(pycurl.URL, send.url)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.PATH_AS_IS, 1)  # `..` in a path is the origin's business
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.HTTP09_ALLOWED, 0)
        curl.setopt(pycurl.USERAGENT, settings.user_agent)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, round(settings.connect_timeout_s * 1000))
        curl.setopt(pycurl.HEADERFUNCTION, self._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, self._on_body, use_memoryview=True)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, self._on_socket)
        curl.setopt(pycurl.BUFFERSIZE, 512 * 1024)
        # Always said, so that libcurl asks no environment: which gate is asked hangs on it.
        curl.setopt(pycurl.PROXY, self._proxy)
        curl.setopt(pycurl.NOPROXY, "")
        if settings.ca_file is not None:
            curl.setopt(pycurl.CAINFO, settings.ca_file)
        fields = [f"{name}: {value}" if value else f"{name};" for name, value in send.fields]
        fields += ["Accept-Encoding: identity", "Expect:"]
        if not any(name.lower() == "content-type" for name, _ in send.fields):
            fields.append("Content-Type:")  # libcurl would call any body a form
        if send.method == "HEAD":
            curl.setopt(pycurl.NOBODY, 1)
        elif send.body is not None or send.method != "GET":
            curl.setopt(pycurl.CUSTOMREQUEST, send.method)
            curl.setopt(pycurl.POST, 1)
            curl.setopt(pycurl.POSTFIELDSIZE_LARGE, len(send.body or b""))
            curl.setopt(pycurl.COPYPOSTFIELDS, send.body or b"")
        curl.setopt(pycurl.HTTPHEADER, [line.encode("latin-1") for line in fields])

    # --- libcurl's callbacks ---------------------------------------------------------------------------

    def _on_header(self, line: bytes) -> int | None:
        self._head_bytes += len(line)
        if self._head_bytes > MAX_HEAD_BYTES:
            detail = f"the origin sent more than {MAX_HEAD_BYTES} bytes of header fields"
            return self._break_off(Failed("origin_header_too_large", detail, 0, permanent=True))
        if line.startswith(b"HTTP/"):
            match = _STATUS_LINE.match(line)
            self._status = int(match[1]) if match else 0
            self._head.clear()
            return None
        text = line.rstrip(b"\r\n")
        if text:
            if self._head_done:
                return None  # trailer fields: nothing that we keep
            name, colon, value = text.decode("latin-1").partition(":")
            if colon and name and not name[0].isspace():
                self._head.append((name, value.strip(" \t")))
            return None
        if 100 <= self._status < 200 or self._head_done:
            return None
        self._head_done = True
        return self._on_head()

    def _on_head(self) -> int | None:
        fields = Fields(self._head)
        length = fields.get("Content-Length")
        if length is not None and length.isdigit():
            self._expected = int(length)
        try:
            self._take = self._sink.on_head(Head(self._status, fields, time.time()))
        except BaseException as error:  # a bug of ours must not vanish in libcurl's callback
            return self._break_off(Failed("origin_protocol", f"internal error: {error!r}", 0, permanent=True))
        if self._take is Take.DISCARD and self._expected is not None and self._expected > DRAIN_BYTES:
            self._unwanted = DRAIN_BYTES + 1
        return None

    def _on_body(self, data: memoryview) -> int | None:
        size = len(data)
        self._window_bytes += size
        if self._take is Take.DISCARD:
            self._unwanted += size
            return -1 if self._unwanted > DRAIN_BYTES else None
        position = 0
        while position < size:
            block = self._block
            if block is None:
                block = self._block = self._loop.take_block(self._expected)
            fill = self._fill
            count = min(len(block) - fill, size - position)
            block[fill : fill + count] = data[position : position + count]
            position += count
            self._fill = fill + count
            if self._fill == len(block):
                self.flush()
                if self._reason is not None:
                    return -1
        return None

    def _on_socket(self, _purpose: int, address: Any) -> Any:
        family, kind, protocol, destination = address
        refusal = self._loop.gate_for(self._proxy).check(_text(destination[0]))
        if refusal is not None:
            self._refusals.append(refusal)
            return pycurl.SOCKET_BAD
        try:
            return _Handed(family, kind, protocol)
        except OSError as error:  # no descriptor left
            reason = f"{show_url(self._send.url)}: no socket could be made: {error.strerror}"
            self._reason = self._reason or Failed("origin_unreachable", reason, 0)
            return pycurl.SOCKET_BAD

    # --- for the sink ----------------------------------------------------------------------------------

    def flush(self) -> None:
        """Hand over what has been gathered."""
        if self._fill and self._block is not None:
            block, size, self._block, self._fill = self._block, self._fill, None, 0
            self._sink.on_block(block, size)

    def is_stalled(self, now: float, settings: TransportSettings) -> bool:
        """Whether the whole window that ends now was too slow. (libcurl's own measure averages over more than
        five seconds.)"""
        elapsed = now - self._window_at
        if elapsed < settings.stall_window_s:
            return False
        slow = self._window_bytes < settings.stall_bytes_per_s * elapsed
        self._window_at, self._window_bytes = now, 0
        return slow

    def abort(self, reason: Failed) -> None:
        """Break the exchange off; `Sink.on_end` gets *reason*. Only in the transport's thread, outside of the
        sink's calls."""
        if not self._ended:
            self._reason = self._reason or reason
            self._loop.finish(self, None)

    def refuse_rest(self, reason: Failed) -> None:
        """From within a call of the sink: take no more; `Sink.on_end` gets *reason*."""
        self._reason = self._reason or reason

    def _break_off(self, reason: Failed) -> int:
        self._reason = self._reason or reason
        return -1

    def end(self, verdict: tuple[int, str] | None) -> Callable[[], None]:
        """It is over, and this is what libcurl says of it; the call that tells the sink."""
        self._ended = True
        self.flush()
        code, message = verdict if verdict is not None else (None, "")
        return partial(self._sink.on_end, self._failure(code, message))

    def _failure(self, code: int | None, message: str) -> Failed | None:
        """What libcurl's verdict means. The body that was not wanted never fails."""
        if self._reason is not None:
            return self._reason
        if self._unwanted > DRAIN_BYTES:
            return None
        where = show_url(self._send.url)
        if code is None:
            # libcurl calls an answer that ends within its head, or after a 101, a success.
            return (
                None if self._head_done else Failed("origin_cut", f"{where}: the answer broke off in its head", 0)
            )
        if self._refusals and not self._head_done:
            first = self._refusals[0]
            return Refused("origin_refused", f"{where} is at {first.address}", 0, permanent=True, refusal=first)
        name, permanent = _FAILURES.get(code, ("origin_protocol", False))
        if name == "origin_ambiguous" and "Content-Length" not in message:
            name = "origin_protocol"
        return Failed(name, f"{where}: {message or f'libcurl error {code}'}", 0, permanent=permanent)


@dataclass(frozen=True, slots=True)
class Refused(Failed):
    """The gate refused every address of the host."""

    refusal: Refusal | None = None


# libcurl's error codes (libcurl-errors(3)) -> our code, and whether asking again is of no use.
_FAILURES: dict[int, tuple[str, bool]] = {
    pycurl.E_UNSUPPORTED_PROTOCOL: ("origin_protocol", False),  # HTTP/0.9: no status line
    pycurl.E_URL_MALFORMAT: ("origin_unreachable", True),
    pycurl.E_COULDNT_RESOLVE_PROXY: ("origin_unreachable", False),
    pycurl.E_COULDNT_RESOLVE_HOST: ("origin_unreachable", False),
    pycurl.E_COULDNT_CONNECT: ("origin_unreachable", False),
    pycurl.E_SSL_CONNECT_ERROR: ("origin_unreachable", False),
    pycurl.E_PEER_FAILED_VERIFICATION: ("origin_unreachable", True),
    pycurl.E_SSL_CACERT_BADFILE: ("origin_unreachable", True),
    pycurl.E_PARTIAL_FILE: ("origin_cut", False),
    pycurl.E_GOT_NOTHING: ("origin_cut", False),
    pycurl.E_SEND_ERROR: ("origin_cut", False),
    pycurl.E_RECV_ERROR: ("origin_cut", False),
    pycurl.E_HTTP2: ("origin_cut", False),
    92: ("origin_cut", False),  # CURLE_HTTP2_STREAM, without a name in pycurl
    pycurl.E_OPERATION_TIMEDOUT: ("origin_unreachable", False),  # connecting took too long; nothing else is timed
    8: ("origin_ambiguous", False),  # CURLE_WEIRD_SERVER_REPLY: two different lengths
    100: ("origin_header_too_large", True),  # CURLE_TOO_LARGE: one line of over 100 kB
}


def _text(host: str | bytes) -> str:
    return host.decode("ascii", "replace") if isinstance(host, bytes) else host
