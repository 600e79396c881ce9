"""Origin exchanges over libcurl: one ``CurlMulti`` loop in one thread.

The loop waits in a selector for libcurl's sockets, for its timer, and for calls from other threads. Redirects are
not followed here: each hop is an exchange of its own (`forebay.fetch.exchange`), so that the gate and the
credentials are looked at anew.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import itertools
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pycurl

from forebay.core.exchange import Failed, Send
from forebay.core.urls import origin_of
from forebay.fetch.exchange import BLOCK_BYTES, Exchange, Sink, TransportSettings
from forebay.fetch.gate import Gate

log = logging.getLogger(__name__)

# Bytes that a slow body may wait in a block before followers and the watermark get them.
FLUSH_AFTER_S = 0.02
_IDLE_HANDLES = 32
_HTTP_1 = (pycurl.CURL_HTTP_VERSION_1_0, pycurl.CURL_HTTP_VERSION_1_1)


@dataclass(order=True, slots=True)
class Timer:
    """A call that `Transport.call_later` will make, unless it is cancelled."""

    at: float
    order: int
    call: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        """Do not make the call."""
        self.call = None


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
        exchange.set_up(self._settings)
        self._exchanges[curl] = exchange
        self._multi.add_handle(curl)
        if self._flush_timer is None:
            self._flush_timer = self.call_later(FLUSH_AFTER_S, self._flush_slow)
        return exchange

    def finish(self, exchange: Exchange, verdict: tuple[int, str] | None) -> None:
        """*exchange* is over; *verdict*: libcurl's error code and its words, None when it has none."""
        curl = exchange.curl
        self._exchanges.pop(curl, None)
        self._shun_surplus(curl)  # while libcurl still knows which connection it was
        self._multi.remove_handle(curl)
        tell = exchange.end(verdict)
        curl.reset()
        if len(self._idle) < _IDLE_HANDLES:
            self._idle.append(curl)
        else:
            curl.close()
        _safely(tell)

    def _shun_surplus(self, curl: pycurl.Curl) -> None:
        """Shut a connection down on which bytes wait that nobody asked for: libcurl would take them for the answer
        to the next request (response splitting, RFC 9112 section 11.1). HTTP/2 has frames of its own."""
        if curl.getinfo(pycurl.INFO_HTTP_VERSION) not in _HTTP_1:
            return
        descriptor = curl.getinfo(pycurl.ACTIVESOCKET)
        # libcurl watches what is in use: another exchange may have taken the connection since this one ended, in
        # the same turn, and those bytes are its answer. (libcurl takes none on which something waits already.)
        if descriptor < 0 or descriptor in self._selector.get_map():
            return
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                connection.shutdown(socket.SHUT_RDWR)

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
                self.finish(self._exchanges[curl], None)
            for curl, code, message in failed:
                self.finish(self._exchanges[curl], (code, message))
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
