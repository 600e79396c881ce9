"""Origin exchanges over libcurl: one ``CurlMulti`` loop in one thread. Nobody else imports the client library.

The loop waits in a selector for libcurl's sockets, for its timer, and for calls from other threads. Body
bytes are gathered into blocks; libcurl's callbacks do nothing else. Redirects are not followed here: each
hop is an exchange of its own, so that the gate and the credentials are looked at anew.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import os
import re
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Protocol

import pycurl

from forebay.core.exchange import Failed, Head, Send
from forebay.core.fields import Fields
from forebay.core.urls import origin_of, show_url
from forebay.fetch.gate import Gate, Refusal

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
# Bytes that a slow body may wait in a block before followers and the watermark get them.
FLUSH_AFTER_S = 0.02
# All fields of one answer. libcurl stops at 300 KiB; nothing honest comes near.
MAX_HEAD_BYTES = 128 * 1024
# A body that is not wanted and is no longer than this is read to its end: the connection stays usable.
DRAIN_BYTES = 64 * 1024
_STATUS_LINE = re.compile(rb"HTTP/[0-9.]+ ([0-9]{3})")
_IDLE_HANDLES = 32


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


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """How exchanges are made. *proxy*: ``""`` none, ``"environment"`` as that says, else its URL."""

    user_agent: str
    connect_timeout_s: float = 30.0
    stall_bytes_per_s: int = 64
    stall_window_s: float = 60.0
    proxy: str = ""
    ca_file: str | None = None


@dataclass(order=True, slots=True)
class Timer:
    """A call that `Transport.call_later` will make, unless it is cancelled."""

    at: float
    order: int
    call: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        """Do not make the call."""
        self.call = None


class _Handed(socket.socket):
    """A socket for pycurl, which duplicates its descriptor when the callback returns and drops this one."""

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it could not even be made
            self.close()


class Exchange:
    """One request to an origin and its answer, under way."""

    __slots__ = (
        "_block",
        "_curl",
        "_ended",
        "_expected",
        "_fill",
        "_head",
        "_head_bytes",
        "_head_done",
        "_proxy",
        "_reason",
        "_refusals",
        "_send",
        "_sink",
        "_status",
        "_take",
        "_transport",
        "_unwanted",
        "_window_at",
        "_window_bytes",
    )  # fmt: skip

    def __init__(self, transport: Transport, send: Send, sink: Sink, curl: pycurl.Curl, *, proxy: str) -> None:
        self._transport, self._send, self._sink, self._curl = transport, send, sink, curl
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
        self._window_at = transport.now
        self._window_bytes = 0
        self._refusals: list[Refusal] = []
        self._reason: Failed | None = None
        self._ended = False

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
                block = self._block = self._transport.take_block(self._expected)
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
        refusal = self._transport.gate_for(self._proxy).check(_text(destination[0]))
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
            self._transport._finish(self, None)

    def refuse_rest(self, reason: Failed) -> None:
        """From within a call of the sink: take no more; `Sink.on_end` gets *reason*."""
        self._reason = self._reason or reason

    def _break_off(self, reason: Failed) -> int:
        self._reason = self._reason or reason
        return -1

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


class Transport:
    """The thread that all exchanges of one gate policy run in. Kept connections are its own: a connection
    that another policy allowed is never used."""

    def __init__(self, gate: Gate, settings: TransportSettings) -> None:
        self._gate, self._settings = gate, settings
        self._proxy_gate = Gate(allow_networks=("0.0.0.0/0", "::/0"), allow_private=True)
        self.now = time.monotonic()
        self._calls: deque[Callable[[], None]] = deque()
        self._timers: list[Timer] = []
        self._orders = itertools.count()
        self._awake = threading.Event()
        with contextlib.ExitStack() as made:  # out of descriptors half-way, what was made is closed
            self._selector = made.enter_context(selectors.DefaultSelector())
            self._wake_receive, self._wake_send = map(made.enter_context, socket.socketpair())
            try:
                self._multi = pycurl.CurlMulti()
            except pycurl.error as error:
                raise OSError(errno.EMFILE, str(error)) from error
            made.pop_all()
        self._wake_receive.setblocking(False)
        self._wake_send.setblocking(False)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_multi_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_multi_timer)
        self._multi_timer: float | None = None
        self._exchanges: dict[pycurl.Curl, Exchange] = {}
        self._idle: list[pycurl.Curl] = []
        self._blocks: deque[bytearray] = deque(maxlen=8)
        self._flush_timer: Timer | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="forebay-transfer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._selector.register(self._wake_receive, selectors.EVENT_READ, None)
        self._thread.start()

    def close(self) -> None:
        """Break off every exchange and stop the thread."""
        if self._thread.ident is None:
            return
        self.call(self._stop)
        self._thread.join()

    def _stop(self) -> None:
        self._stopping = True

    # --- from any thread -------------------------------------------------------------------------------

    def call(self, function: Callable[[], None]) -> None:
        """Have *function* called in the transport's thread, soon."""
        self._calls.append(function)
        if not self._awake.is_set():
            self._awake.set()
            with contextlib.suppress(OSError):  # full: the thread wakes anyway; closed: nobody to wake
                self._wake_send.send(b"\0")

    def recycle(self, block: bytearray) -> None:
        """Give a block back."""
        if len(block) == BLOCK_BYTES:
            self._blocks.append(block)

    def take_block(self, expected: int | None) -> bytearray:
        """An empty block; a small one for a body that is *expected* to be small."""
        if expected is not None and 0 < expected < BLOCK_BYTES // 2:
            return bytearray(expected)
        try:
            return self._blocks.pop()
        except IndexError:
            return bytearray(BLOCK_BYTES)

    # --- in the transport's thread ---------------------------------------------------------------------

    def call_later(self, seconds: float, function: Callable[[], None]) -> Timer:
        """Have *function* called after *seconds*."""
        timer = Timer(time.monotonic() + seconds, next(self._orders), function)
        heapq.heappush(self._timers, timer)
        return timer

    def gate_for(self, proxy: str) -> Gate:
        """The gate that is asked before a connection. With a proxy that the operator named, the proxy is the
        gate: the addresses that are dialled are its own."""
        return self._proxy_gate if proxy else self._gate

    def open(self, send: Send, sink: Sink) -> Exchange:
        """Begin an exchange."""
        curl = self._idle.pop() if self._idle else pycurl.Curl()
        exchange = Exchange(self, send, sink, curl, proxy=proxy_for(send.url, self._settings.proxy))
        self._set_up(curl, send, exchange)
        self._exchanges[curl] = exchange
        self._multi.add_handle(curl)
        if self._flush_timer is None:
            self._flush_timer = self.call_later(FLUSH_AFTER_S, self._flush_slow)
        return exchange

    def _set_up(self, curl: pycurl.Curl, send: Send, exchange: Exchange) -> None:
        settings = self._settings
        curl.setopt(pycurl.URL, send.url)
        curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
        curl.setopt(pycurl.FOLLOWLOCATION, 0)
        curl.setopt(pycurl.PATH_AS_IS, 1)  # `..` in a path is the origin's business
        curl.setopt(pycurl.NOSIGNAL, 1)
        curl.setopt(pycurl.HTTP09_ALLOWED, 0)
        curl.setopt(pycurl.USERAGENT, settings.user_agent)
        curl.setopt(pycurl.CONNECTTIMEOUT_MS, round(settings.connect_timeout_s * 1000))
        curl.setopt(pycurl.HEADERFUNCTION, exchange._on_header)
        curl.setopt(pycurl.WRITEFUNCTION, exchange._on_body, use_memoryview=True)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, exchange._on_socket)
        curl.setopt(pycurl.BUFFERSIZE, 512 * 1024)
        # Always said, so that libcurl asks no environment: which gate is asked hangs on it.
        curl.setopt(pycurl.PROXY, exchange._proxy)
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

    def _finish(self, exchange: Exchange, verdict: tuple[int, str] | None) -> None:
        exchange._ended = True
        curl = exchange._curl
        self._exchanges.pop(curl, None)
        _shun_surplus(curl)  # while libcurl still knows which connection it was
        self._multi.remove_handle(curl)
        exchange.flush()
        code, message = verdict if verdict is not None else (None, "")
        failure = exchange._failure(code, message)
        curl.reset()
        if len(self._idle) < _IDLE_HANDLES:
            self._idle.append(curl)
        else:
            curl.close()
        _safely(partial(exchange._sink.on_end, failure))

    def _flush_slow(self) -> None:
        """Hand over what slow bodies have gathered (fast ones fill their blocks sooner); give up stalled ones."""
        self._flush_timer = None
        for exchange in list(self._exchanges.values()):
            exchange.flush()
            if exchange.is_stalled(self.now, self._settings):
                settings = self._settings
                detail = f"slower than {settings.stall_bytes_per_s} bytes/s for {settings.stall_window_s:g} s"
                exchange.abort(Failed("origin_stalled", detail, 0))
        if self._exchanges:
            self._flush_timer = self.call_later(FLUSH_AFTER_S, self._flush_slow)

    # --- the loop --------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                try:
                    self._turn()
                except Exception:  # a bug of ours: those under way fail, later ones may work
                    log.exception("the transfer loop failed")
                    self._abort_all(Failed("origin_protocol", "internal error", 0))
        finally:
            self._shut_down()

    def _turn(self) -> None:
        ready = self._selector.select(self._timeout())
        self.now = time.monotonic()
        for key, mask in ready:
            if key.fileobj is self._wake_receive:
                self._drain_wake()
                continue
            flags = (pycurl.CSELECT_IN if mask & selectors.EVENT_READ else 0) | (
                pycurl.CSELECT_OUT if mask & selectors.EVENT_WRITE else 0
            )
            self._multi.socket_action(key.fd, flags)
        if self._multi_timer is not None and self._multi_timer <= self.now:
            self._multi_timer = None
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._collect()
        while self._calls:
            _safely(self._calls.popleft())
        while self._timers and self._timers[0].at <= self.now:
            call = heapq.heappop(self._timers).call
            if call is not None:
                _safely(call)

    def _timeout(self) -> float | None:
        if self._calls:
            return 0.0
        at = self._multi_timer
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        if self._timers and (at is None or self._timers[0].at < at):
            at = self._timers[0].at
        return None if at is None else max(0.0, at - time.monotonic())

    def _drain_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_receive.recv(4096):
                pass
        # Only now: a call that found the flag set sent nothing, and is made in this turn.
        self._awake.clear()

    def _collect(self) -> None:
        """Finish what libcurl is done with."""
        while True:
            left, done, failed = self._multi.info_read()
            for curl in done:
                self._finish(self._exchanges[curl], None)
            for curl, code, message in failed:
                self._finish(self._exchanges[curl], (code, message))
            if left == 0:
                return

    def _on_multi_socket(self, what: int, descriptor: int, _multi: Any, _data: Any) -> None:
        if what == pycurl.POLL_REMOVE:
            with contextlib.suppress(KeyError, ValueError, OSError):  # closed before we were told
                self._selector.unregister(descriptor)
            return
        events = 0
        if what in (pycurl.POLL_IN, pycurl.POLL_INOUT):
            events |= selectors.EVENT_READ
        if what in (pycurl.POLL_OUT, pycurl.POLL_INOUT):
            events |= selectors.EVENT_WRITE
        try:
            self._selector.modify(descriptor, events, None)
        except KeyError:
            self._selector.register(descriptor, events, None)

    def _on_multi_timer(self, milliseconds: int) -> None:
        self._multi_timer = None if milliseconds < 0 else time.monotonic() + milliseconds / 1000

    def _abort_all(self, reason: Failed) -> None:
        for exchange in list(self._exchanges.values()):
            exchange.abort(reason)

    def _shut_down(self) -> None:
        self._abort_all(Failed("origin_cut", "Forebay was closed", 0))
        for curl in self._idle:
            curl.close()
        self._multi.close()
        self._selector.close()
        self._wake_receive.close()
        self._wake_send.close()


def _safely(call: Callable[[], None]) -> None:
    """A bug of ours must not end the thread that all exchanges run in."""
    try:
        call()
    except Exception:
        log.exception("an exchange failed")


def _shun_surplus(curl: pycurl.Curl) -> None:
    """Shut a connection down on which bytes wait that nobody asked for: libcurl would take them for the answer
    to the next request (response splitting, RFC 9112 section 11.1). HTTP/2 has frames of its own."""
    if curl.getinfo(pycurl.INFO_HTTP_VERSION) not in (pycurl.CURL_HTTP_VERSION_1_0, pycurl.CURL_HTTP_VERSION_1_1):
        return
    descriptor = curl.getinfo(pycurl.ACTIVESOCKET)
    if descriptor < 0:
        return
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            connection.shutdown(socket.SHUT_RDWR)


def proxy_for(url: str, setting: str) -> str:
    """The proxy that *url* goes through by the *setting*; ``""``: none. The environment is read as the standard
    library does: ``https_proxy``, ``no_proxy`` and friends."""
    if setting != "environment":
        return setting
    from urllib.request import (  # type: ignore[attr-defined]
        getproxies_environment,
        proxy_bypass_environment,
    )

    origin = origin_of(url)
    scheme, _, host = origin.partition("://")
    found = getproxies_environment()
    if proxy_bypass_environment(host.rpartition(":")[0], found):
        return ""
    return found.get(scheme) or found.get("all") or ""
