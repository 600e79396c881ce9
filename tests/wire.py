"""A wire between a client and a server on loopback, that counts what passes and can be cut.

with Wire(served.url) as wire:
    bay = forebay.open(wire.url)
    wire.cut_after(1_000_000)       # once, when so many bytes more have come from the server
    wire.received                   # bytes that came from the server
    wire.cut_after_sent(1_000_000)  # once, when so many bytes more have gone to the server
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_PIECE_BYTES = 64 * 1024


class Wire:
    """Forwards TCP connections to the server at *url*; one thread for each."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None
        self._server = (str(parts.hostname), parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._cut_at: int | None = None
        self._cut_every = self._cuts_left = 0
        self._cut_sent_at: int | None = None
        self._then: Callable[[], object] = lambda: None
        self._lost: bytes | None = None
        self._losing: socket.socket | None = None
        self._refusing = self._for_good = False
        self.received = self.sent = self.connections = self.cuts = 0
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    def cut_after(self, size_bytes: int, *, times: int = 1, for_good: bool = False) -> None:
        """End the connection on which, from now on, the last of so many bytes comes from the server, so many
        *times*; *for_good*: and refuse those that come after it."""
        with self._changed:
            self._cut_at, self._for_good = self.received + size_bytes, for_good
            self._cut_every, self._cuts_left = size_bytes, times

    def cut_after_sent(
        self, size_bytes: int, *, then: Callable[[], object] = lambda: None, for_good: bool = False
    ) -> None:
        """End the connection on which, from now on, the last of so many bytes goes to the server, once: *then* is
        called before that. *for_good*: and refuse those that come after it."""
        with self._changed:
            self._cut_sent_at, self._then, self._for_good = self.sent + size_bytes, then, for_good

    def lose_answer(self, said: bytes, *, then: Callable[[], object] = lambda: None) -> None:
        """End the connection in place of the answer to the next message whose head has *said*: *then* is called
        before that."""
        with self._changed:
            self._lost, self._then = said, then

    def wait_for_cut(self, cuts: int = 1, timeout: float = 60) -> None:
        """Until it was cut so many times."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.cuts >= cuts, timeout):
                raise AssertionError(f"expected {cuts} cuts, got {self.cuts}; {self.sent} bytes went to the server")

    def refuse(self, refusing: bool = True) -> None:
        """Close each connection as soon as it comes, and those that there are; or no longer."""
        with self._changed:
            self._refusing = refusing
            if refusing:
                for sock in self._open:
                    with suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)

    def wait_for(self, received: int, timeout: float = 30) -> None:
        """Until so many bytes came from the server."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.received >= received, timeout):
                raise AssertionError(f"expected {received} bytes from the server, got {self.received}")

    def wait_for_sent(self, sent: int, timeout: float = 60) -> None:
        """Until so many bytes went to the server."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.sent >= sent, timeout):
                raise AssertionError(f"expected {sent} bytes to the server, got {self.sent}")

    def close(self) -> None:
        """Cut everything."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # else its thread waits on
        self._listener.close()
        self.refuse()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        with client, selectors.DefaultSelector() as selector:
            if self._refusing:
                return
            try:
                server = socket.create_connection(self._server)
            except OSError:
                return
            with server:
                with self._changed:
                    self._open |= {client, server}
                for sock in (client, server):
                    selector.register(sock, selectors.EVENT_READ)
                with suppress(OSError):
                    while self._pass_on(client, server, selector):
                        pass
                with self._changed:
                    self._open -= {client, server}

    def _pass_on(self, client: socket.socket, server: socket.socket, selector: selectors.BaseSelector) -> bool:
        for key, _ in selector.select():
            piece = key.fileobj.recv(_PIECE_BYTES)  # type: ignore[union-attr]
            if not piece:
                return False
            if key.fileobj is client:
                if self._lost is not None and self._lost in piece:
                    self._lost, self._losing = None, server
                if self._send(server, piece):
                    return False
                continue
            with self._changed:
                if self._losing is server:
                    self._losing = None
                    self._then()
                    self.cuts += 1
                    self._changed.notify_all()
                    return False
                cut = self._cut_at is not None and self.received + len(piece) >= self._cut_at
                if cut:
                    assert self._cut_at is not None
                    piece = piece[: self._cut_at - self.received]
                    self.cuts, self._cuts_left = self.cuts + 1, self._cuts_left - 1
                    self._cut_at = self._cut_at + self._cut_every if self._cuts_left else None
                    self._refusing |= self._for_good
                self.received += len(piece)
                self._changed.notify_all()
            client.sendall(piece)
            if cut:
                return False
        return True

    def _send(self, server: socket.socket, piece: bytes) -> bool:
        """Pass *piece* on to the server; whether that is where the connection is to be cut."""
        with self._changed:
            cut = self._cut_sent_at is not None and self.sent + len(piece) >= self._cut_sent_at
            if cut:
                assert self._cut_sent_at is not None
                piece = piece[: self._cut_sent_at - self.sent]
                self._cut_sent_at = None
                self._refusing |= self._for_good
            self.sent += len(piece)
            self._changed.notify_all()
        server.sendall(piece)
        if cut:
            self._then()
            with self._changed:
                self.cuts += 1
                self._changed.notify_all()
        return cut
