"""A real HTTP/1.1 origin on a loopback socket that can lie: the one server that all our tests talk to.

Longer than our guide size, because a test should find every lie in one place and read one import line.

    with Origin() as origin:
        resource = origin.serve("/a", Resource(b"hello"))
        origin.url("/a")                    # http://127.0.0.1:PORT/a
        origin.wait_for(2, "/a")            # until two requests were seen
        origin.requests("/a")[0].fields["range"]

Bytes go on the wire as a behaviour writes them: nothing in between corrects a length or a field. One thread
accepts, one thread serves each connection. Whatever waits, waits for an event; nothing depends on a clock.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import itertools
import re
import select
import selectors
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from http import HTTPStatus
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar

Behaviour = Callable[["Exchange"], None]
How = Literal["fin", "rst"]
Pair = tuple[str, str]
B = TypeVar("B", bound=Behaviour)

# How often a held answer looks whether the origin stops or the client hung up: `threading.Event` cannot be
# waited for together with a socket. The event itself is noticed at once.
_LOOK_UP_S = 0.02
_REASONS = {int(status): status.phrase for status in HTTPStatus}
_PIECE_BYTES = 256 * 1024
# A behaviour that does not end when the origin stops is a bug in the test; this only bounds the wait for it.
_JOIN_S = 10.0


def blob(size: int, seed: int = 0) -> bytes:
    """*size* pseudo-random bytes; the same for the same *size* and *seed*, on every machine.

    A shorter blob is a prefix of a longer one with the same seed.
    """
    return hashlib.shake_128(b"forebay-%d" % seed).digest(size)


def http_date(moment: datetime | str) -> str:
    """*moment* as an IMF-fixdate (RFC 9110 section 5.6.7); a string is taken as it is."""
    if isinstance(moment, str):
        return moment
    return format_datetime(moment.astimezone(UTC).replace(microsecond=0), usegmt=True)


class Vanished(ConnectionError):
    """The client hung up, or the origin stops: ends a behaviour quietly."""


class Fields(Mapping[str, str]):
    """Header fields as they came; look-up ignores case and joins repeated fields with a comma."""

    def __init__(self, pairs: Iterable[Pair] = ()) -> None:
        self.pairs: tuple[Pair, ...] = tuple(pairs)

    def all(self, name: str) -> list[str]:
        """Every value of *name*, in order."""
        return [value for key, value in self.pairs if key.lower() == name.lower()]

    def without(self, *names: str) -> Fields:
        """The same fields less those named."""
        dropped = {name.lower() for name in names}
        return Fields(pair for pair in self.pairs if pair[0].lower() not in dropped)

    def __getitem__(self, name: str) -> str:
        values = self.all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.all(name))

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.lower() for key, _ in self.pairs))

    def __len__(self) -> int:
        return len({key.lower() for key, _ in self.pairs})

    def __repr__(self) -> str:
        return f"Fields({list(self.pairs)!r})"


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came in. `number` counts all requests from 1, `connection` all connections from 1."""

    method: str
    path: str
    query: str
    fields: Fields
    body: bytes
    connection: int
    number: int
    version: str = "HTTP/1.1"


# --- the wire -------------------------------------------------------------------------------------------


class _Connection:
    """One accepted socket and what was read from it too early."""

    def __init__(self, sock: socket.socket, number: int, stopping: threading.Event) -> None:
        self.sock = sock
        self.number = number
        self.stopping = stopping
        self.closed = False
        self._buffer = bytearray()
        self._lock = threading.Lock()  # close here, hang_up from another thread

    def _more(self) -> None:
        piece = self.sock.recv(65536)
        if not piece:
            raise Vanished("the client sent no more")
        self._buffer += piece

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _take_to(self, mark: bytes) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            self._more()
        return self._take(at + len(mark))

    def read_request(self) -> tuple[str, str, str, Fields, bytes]:
        """Method, target, version, fields and body of the next request; ValueError when it is not HTTP."""
        head = self._take_to(b"\r\n\r\n").decode("latin-1")
        start, *lines = head.removesuffix("\r\n\r\n").lstrip("\r\n").split("\r\n")
        method, target, version = start.split(" ")
        if not version.startswith("HTTP/1."):
            raise ValueError(f"not HTTP/1.x: {start!r}")
        pairs: list[Pair] = []
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(f"not a field: {line!r}")
            pairs.append((name, value.strip(" \t")))
        fields = Fields(pairs)
        return method, target, version, fields, self._read_body(fields)

    def _read_body(self, fields: Fields) -> bytes:
        chunked = "chunked" in fields.get("transfer-encoding", "").lower()
        length = int(fields.get("content-length", "0"))
        if (chunked or length) and not self._buffer and "100-continue" in fields.get("expect", "").lower():
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not chunked:
            return self._take(length)
        body = bytearray()
        while size := int(self._take_to(b"\r\n").split(b";")[0], 16):
            body += self._take(size)
            self._take(2)
        while self._take_to(b"\r\n") != b"\r\n":
            pass  # trailer fields
        return bytes(body)

    def gone(self) -> bool:
        """Whether the client hung up or the origin stops."""
        if self.closed or self.stopping.is_set():
            return True
        try:
            return self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def hang_up(self) -> None:
        """FIN from any thread; wakes whoever reads from or writes to the socket."""
        with self._lock:
            if not self.closed:
                with suppress(OSError):
                    self.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """FIN, after everything that was sent."""
        with self._lock:
            if self.closed:
                return
            self.closed = True
            with suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
            # Closing with unread bytes would send RST instead, and RST destroys what is still on its way.
            with suppress(OSError):
                self.sock.setblocking(False)
                while self.sock.recv(65536):
                    pass
            self.sock.close()

    def reset(self) -> None:
        """RST, after everything that was sent."""
        self._wait_until_sent()
        with self._lock:
            if self.closed:
                return
            self.closed = True
            with suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()

    def _wait_until_sent(self) -> None:
        # RST drops what still sits in our send buffer: a client would get less than the test said. With this
        # mark the socket is writable only when nothing is unsent; hang_up and a dead client wake it too.
        mark = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if mark is None or self.closed:
            return
        with suppress(OSError):
            self.sock.setsockopt(socket.IPPROTO_TCP, mark, 1)
            poll = select.poll()
            poll.register(self.sock, select.POLLOUT)
            poll.poll(30_000)


class _Gate(Protocol):
    """What `Drip` waits for: `threading.Semaphore`, or anything with this method."""

    def acquire(self, *, timeout: float) -> bool: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer before it is sent: take one from `Resource.answer`, bend it, give it to
    `Exchange.answer`.

    `span` is the half-open part of `whole` that a 206 carries.
    """

    status: int
    fields: tuple[Pair, ...]
    body: bytes | memoryview = b""
    span: tuple[int, int] | None = None
    whole: bytes | memoryview = b""
    source: Resource | None = None

    def with_field(self, name: str, value: str | None) -> Answer:
        """The same answer with *name* replaced, or removed when *value* is None."""
        kept = tuple(pair for pair in self.fields if pair[0].lower() != name.lower())
        return replace(self, fields=kept if value is None else (*kept, (name, value)))


class Exchange:
    """One request and the means to answer it, handed to a behaviour.

    The connection stays open afterwards while `keep` is true: for HTTP/1.1 without `Connection: close`,
    until a head without Content-Length and Transfer-Encoding was sent, or a behaviour says otherwise.
    `extra_fields` go into the next head, whoever writes it.
    """

    def __init__(self, connection: _Connection, seen: Seen, clock: Callable[[], datetime]) -> None:
        self.seen = seen
        self.keep = seen.version == "HTTP/1.1" and "close" not in seen.fields.get("connection", "").lower()
        self.extra_fields: list[Pair] = []
        self.now = clock
        self._connection = connection

    @property
    def is_head(self) -> bool:
        """Whether the answer must have no body."""
        return self.seen.method == "HEAD"

    def send(self, data: bytes | memoryview) -> None:
        """Put *data* on the wire as it is. Raises Vanished when the client is gone."""
        if self._connection.closed:
            raise Vanished("closed by this behaviour")
        try:
            self._connection.sock.sendall(data)
        except ConnectionError as gone:
            raise Vanished(str(gone)) from gone
        except OSError as gone:
            if gone.errno not in {errno.EBADF, errno.ENOTCONN, errno.EPROTOTYPE}:
                raise
            raise Vanished(str(gone)) from gone

    def send_head(
        self, status: int, fields: Iterable[Pair] = (), reason: str | None = None, version: str = "HTTP/1.1"
    ) -> None:
        """Send the status line and *fields* unchecked, in latin-1; nothing is added but `extra_fields`."""
        self.send(self._head(status, fields, reason, version))

    def _head(self, status: int, fields: Iterable[Pair], reason: str | None, version: str) -> bytes:
        pairs = [*fields, *self.extra_fields]
        self.extra_fields = []
        names = {name.lower() for name, _ in pairs}
        bodiless = self.is_head or status in {204, 304} or status < 200
        if not bodiless and not names & {"content-length", "transfer-encoding"}:
            self.keep = False  # only the end of the connection ends this body
        if any(name.lower() == "connection" and value.lower() == "close" for name, value in pairs):
            self.keep = False
        if reason is None:
            reason = _REASONS.get(status, "Unnamed")
        lines = [f"{version} {status} {reason}", *(f"{name}: {value}" for name, value in pairs), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def answer(self, answer: Answer, *, stop: int | None = None) -> None:
        """Send *answer*, its body only up to *stop*; Date and a true Content-Length are added where
        missing.
        """
        pairs = list(answer.fields)
        names = {name.lower() for name, _ in pairs}
        if "date" not in names:
            pairs.insert(0, ("Date", http_date(self.now())))
        if answer.status not in {204, 304} and not names & {"content-length", "transfer-encoding"}:
            pairs.append(("Content-Length", str(len(answer.body))))
        self.send_head(answer.status, pairs)
        self.send_body(answer, stop=stop)

    def send_body(self, answer: Answer, *, start: int = 0, stop: int | None = None) -> None:
        """Send the bytes `[start, stop)` of the body of *answer*; nothing for HEAD."""
        if self.is_head or answer.status in {204, 304}:
            return
        body = memoryview(answer.body)[start:stop]
        for at in range(0, len(body), _PIECE_BYTES):
            piece = body[at : at + _PIECE_BYTES]
            # Counted first: a client that has the last byte must find it counted.
            if answer.source is not None:
                answer.source.count_sent(len(piece))
            try:
                self.send(piece)
            except Vanished:
                if answer.source is not None:
                    answer.source.count_sent(-len(piece))
                raise

    def close(self) -> None:
        """End the connection with FIN."""
        self._connection.close()

    def reset(self) -> None:
        """End the connection with RST; what was sent before reaches a client that reads."""
        self._connection.reset()

    def cut(self, how: How) -> None:
        """`close` or `reset`."""
        if how == "rst":
            self.reset()
        else:
            self.close()

    def stall(self, until: threading.Event) -> None:
        """Send nothing until *until* is set. Raises Vanished when the origin stops or the client hangs up."""
        while not until.wait(_LOOK_UP_S):
            if self._connection.gone():
                raise Vanished("gone while stalled")

    def acquire(self, gate: _Gate) -> None:
        """Send nothing until *gate* lets us through. Raises Vanished as `stall` does."""
        while not gate.acquire(timeout=_LOOK_UP_S):
            if self._connection.gone():
                raise Vanished("gone at the gate")


class Origin:
    """The server. A context manager: entering starts it, leaving stops it and raises what a behaviour raised.

    The port is free choice of the system and stays ours while stopped (bound, not listening: connections are
    refused), so `stop` and `start` make an origin that is gone and comes back at the same URL.
    A path that nobody serves answers 404; `serve("*", ...)` replaces that.
    """

    def __init__(self, host: str = "127.0.0.1", *, clock: Callable[[], datetime] | None = None) -> None:
        self.host = host
        self.port = 0
        self.log: list[Seen] = []
        self.connections = 0
        self._clock = clock or (lambda: datetime.now(UTC))
        self._behaviours: dict[str, Behaviour] = {"*": Status(404, b"nobody serves this path\n")}
        self._changed = threading.Condition()
        self._open: set[_Connection] = set()
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._stopping = threading.Event()
        self._acceptor: threading.Thread | None = None
        self._listener: socket.socket | None = None
        self._wake: socket.socket | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BaseException as own:
            if error is None:
                raise
            error.add_note(f"beside that, a behaviour of the origin failed: {own!r}")

    # -- what a test asks and tells

    def url(self, path: str = "/") -> str:
        """The absolute URL of *path* (which may carry a query). Known once started."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{path}"

    def serve(self, path: str, behaviour: B) -> B:
        """Answer *path* (as on the wire, without query) by *behaviour* from now on; returns *behaviour*."""
        self._behaviours[path] = behaviour
        return behaviour

    def requests(self, path: str | None = None, method: str | None = None) -> list[Seen]:
        """What was seen so far, of *path* and *method* if given, in order of arrival."""
        with self._changed:
            return [
                seen
                for seen in self.log
                if (path is None or seen.path == path) and (method is None or seen.method == method)
            ]

    def wait_for(
        self, what: int | Callable[[list[Seen]], bool], path: str | None = None, timeout: float = 30
    ) -> list[Seen]:
        """Wait until *what* requests of *path* were seen, or *what* is true of their list; returns that list.

        Raises TimeoutError naming what was seen.
        """

        def enough() -> bool:
            seen = self.requests(path)
            return len(seen) >= what if isinstance(what, int) else what(seen)

        with self._changed:
            if not self._changed.wait_for(enough, timeout):
                got = [f"{seen.method} {seen.path}" for seen in self.requests(path)]
                raise TimeoutError(f"waited {timeout} s for {what} requests of {path}, saw {got}")
            return self.requests(path)

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        with self._changed:
            return len(self._open)

    def close_connections(self) -> None:
        """FIN on every open connection, also in the middle of an answer; the origin goes on accepting."""
        with self._changed:
            connections = list(self._open)
        for connection in connections:
            connection.hang_up()

    # -- life

    def start(self) -> None:
        """Listen; after `stop`, on the same port."""
        if self._acceptor is not None:
            raise RuntimeError("the origin runs already")
        listener = self._listener or self._bind()
        self._listener = listener
        listener.listen(512)
        self._stopping = threading.Event()
        self._wake, woken = socket.socketpair()
        self._acceptor = threading.Thread(
            target=self._accept, args=(listener, woken, self._stopping), name="origin-accept", daemon=True
        )
        self._acceptor.start()

    def stop(self) -> None:
        """Refuse connections, end those that are open, join every thread; raises what a behaviour raised.

        The port stays reserved until `close`. Does nothing when stopped.
        """
        self._halt()
        errors, self._errors = self._errors, []
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise BaseExceptionGroup("behaviours of the origin failed", errors)

    def close(self) -> None:
        """`stop`, and give the port back."""
        try:
            self.stop()
        finally:
            if self._listener is not None:
                self._listener.close()
                self._listener = None

    def _halt(self) -> None:
        if self._acceptor is None or self._wake is None or self._listener is None:
            return
        self._stopping.set()
        self._wake.close()
        self._acceptor.join()
        self._acceptor = None
        self._listener.close()
        self._listener = None
        try:
            self._listener = self._bind()
        except OSError as error:
            self._errors.append(error)
        self.close_connections()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)
                if thread.is_alive():
                    self._errors.append(RuntimeError(f"a behaviour did not end with the origin: {thread.name}"))
        self._threads.clear()

    def _bind(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self.host, self.port))
        except OSError:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        return sock

    def _accept(self, listener: socket.socket, woken: socket.socket, stopping: threading.Event) -> None:
        with woken, selectors.DefaultSelector() as ready:
            ready.register(listener, selectors.EVENT_READ)
            ready.register(woken, selectors.EVENT_READ)
            while True:
                ready.select()
                if stopping.is_set():
                    return
                try:
                    sock, _ = listener.accept()
                except OSError:
                    continue  # it hung up before we took it
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._changed:
                    self.connections += 1
                    connection = _Connection(sock, self.connections, stopping)
                    self._open.add(connection)
                thread = threading.Thread(
                    target=self._converse, args=(connection,), name=f"origin-{connection.number}", daemon=True
                )
                self._threads = [*(t for t in self._threads if t.is_alive()), thread]
                thread.start()

    def _converse(self, connection: _Connection) -> None:
        try:
            while not connection.closed and not connection.stopping.is_set() and self._one(connection):
                pass
        except OSError as error:
            # ENOTCONN: hung up from another thread between two steps.
            if not isinstance(error, ConnectionError) and error.errno not in {errno.ENOTCONN, errno.EBADF}:
                self._errors.append(error)
        except BaseException as error:
            self._errors.append(error)
        finally:
            connection.close()
            with self._changed:
                self._open.discard(connection)
                self._changed.notify_all()

    def _one(self, connection: _Connection) -> bool:
        """Serve one request; whether the connection stays."""
        try:
            method, target, version, fields, body = connection.read_request()
        except ValueError:
            connection.sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return False
        absolute = re.match(r"https?://[^/?]*", target)  # as a proxy is asked
        if absolute:
            target = target[absolute.end() :] or "/"
        path, _, query = target.partition("?")
        with self._changed:
            seen = Seen(method, path, query, fields, body, connection.number, len(self.log) + 1, version)
            self.log.append(seen)
            self._changed.notify_all()
        exchange = Exchange(connection, seen, self._clock)
        (self._behaviours.get(path) or self._behaviours["*"])(exchange)
        return exchange.keep


# --- honest behaviours ----------------------------------------------------------------------------------


def _strong_match(one: str, other: str | None) -> bool:
    return one == other and not one.startswith("W/")


def _listed(value: str, etag: str | None, *, weak: bool) -> bool:
    """Whether If-Match or If-None-Match *value* names *etag* (RFC 9110 section 8.8.3.2)."""
    if value.strip() == "*":
        return True
    if etag is None:
        return False
    tags = re.findall(r'(?:W/)?"[^"]*"', value)
    if weak:
        return etag.removeprefix("W/") in {tag.removeprefix("W/") for tag in tags}
    return any(_strong_match(tag, etag) for tag in tags)


def _not_after(one: str | None, limit: str) -> bool:
    """Whether date *one* is no later than *limit*; False when either is no date."""
    try:
        return one is not None and parsedate_to_datetime(one) <= parsedate_to_datetime(limit)
    except (TypeError, ValueError):
        return False


class Resource:
    """A correct resource: GET, HEAD, one byte range, If-Range, If-(None-)Match, If-(Un)Modified-Since.

    `body` is bytes or a callable of the Seen request; POST, PUT and the rest get 200 with it too. `body`,
    `etag`, `last_modified`, `media_type` and `fields` may be set between requests; `change` sets several at
    once. Several ranges in one field are ignored, which RFC 9110 section 14.2 allows. With
    `accept_ranges=False` it says `Accept-Ranges: none` and ignores Range. Counts `gets`, `heads`,
    `not_modified`, and `bytes_sent` of bodies, also when another behaviour sends its answers.
    """

    def __init__(
        self,
        body: bytes | Callable[[Seen], bytes],
        *,
        etag: str | None = '"v1"',
        last_modified: datetime | str | None = None,
        media_type: str | None = "text/plain",
        fields: Iterable[Pair] = (),
        accept_ranges: bool = True,
    ) -> None:
        self._lock = threading.RLock()
        self.body = body
        self.etag = etag
        self.last_modified = last_modified
        self.media_type = media_type
        self.fields: tuple[Pair, ...] = tuple(fields)
        self.accept_ranges = accept_ranges
        self.gets = self.heads = self.not_modified = self.bytes_sent = 0

    def change(
        self,
        body: bytes | Callable[[Seen], bytes],
        *,
        etag: str | None,
        last_modified: datetime | str | None = None,
    ) -> None:
        """Become another representation, in one step for every request."""
        with self._lock:
            self.body, self.etag, self.last_modified = body, etag, last_modified

    def count_sent(self, size_bytes: int) -> None:
        """Add to `bytes_sent`."""
        with self._lock:
            self.bytes_sent += size_bytes

    def __call__(self, exchange: Exchange) -> None:
        exchange.answer(self.answer(exchange.seen))

    def answer(self, seen: Seen) -> Answer:
        """The honest answer to *seen*, counted."""
        with self._lock:
            etag, media_type, fields = self.etag, self.media_type, self.fields
            modified = None if self.last_modified is None else http_date(self.last_modified)
            source = self.body
            self.gets += seen.method == "GET"
            self.heads += seen.method == "HEAD"
        whole = source(seen) if callable(source) else source
        validators: list[Pair] = [("ETag", etag)] if etag is not None else []
        if modified is not None:
            validators.append(("Last-Modified", modified))

        refusal = self._precondition(seen, etag, modified)
        if refusal == 304:
            with self._lock:
                self.not_modified += 1
            # RFC 9110 section 15.4.5: no representation metadata beside the validator.
            kept = Fields(fields).without("content-encoding", "content-language", "content-type").pairs
            return Answer(304, (*validators[:1], *kept), source=self)
        if refusal is not None:
            return Answer(refusal, tuple(validators), source=self)

        ranges: Pair = ("Accept-Ranges", "bytes" if self.accept_ranges else "none")
        common: tuple[Pair, ...] = (*validators, ranges, *fields)
        if media_type is not None:
            common = (("Content-Type", media_type), *common)
        span = self._span(seen, etag, modified, len(whole)) if self.accept_ranges else None
        if span is None:
            return Answer(200, common, whole, whole=whole, source=self)
        start, stop = span
        if start >= stop:
            return Answer(416, (("Content-Range", f"bytes */{len(whole)}"), ranges), source=self)
        named = ("Content-Range", f"bytes {start}-{stop - 1}/{len(whole)}")
        return Answer(206, (*common, named), memoryview(whole)[start:stop], span, whole, self)

    def _precondition(self, seen: Seen, etag: str | None, modified: str | None) -> int | None:
        """412, 304 or None, in the order of RFC 9110 section 13.2.2."""
        fields = seen.fields
        if "if-match" in fields:
            if not _listed(fields["if-match"], etag, weak=False):
                return 412
        elif modified is not None and not _not_after(modified, fields.get("if-unmodified-since", modified)):
            return 412
        if seen.method not in {"GET", "HEAD"}:
            return None
        if "if-none-match" in fields:
            return 304 if _listed(fields["if-none-match"], etag, weak=True) else None
        if "if-modified-since" in fields and _not_after(modified, fields["if-modified-since"]):
            return 304
        return None

    def _span(self, seen: Seen, etag: str | None, modified: str | None, size: int) -> tuple[int, int] | None:
        """The span that Range asks for, empty when it cannot be satisfied; None: answer with the whole."""
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", seen.fields.get("range", ""))
        if seen.method != "GET" or asked is None or asked.group(1) == asked.group(2) == "":
            return None
        known = seen.fields.get("if-range")
        if known is not None:
            tag = known.startswith(('"', "W/"))
            if not (_strong_match(known, etag) if tag else known == modified):
                return None
        first, last = asked.groups()
        if first == "":
            return max(0, size - int(last)), size
        if last == "":
            return int(first), size
        if int(last) < int(first):
            return None  # invalid, so ignored
        return int(first), min(int(last) + 1, size)


class Status:
    """An answer of one status, with a true Content-Length."""

    def __init__(
        self, code: int, body: bytes = b"", fields: Iterable[Pair] = (), reason: str | None = None
    ) -> None:
        self.code = code
        self.body = body
        self.fields = tuple(fields)
        self.reason = reason

    def __call__(self, exchange: Exchange) -> None:
        bodiless = self.code in {204, 304}
        length = [] if bodiless else [("Content-Length", str(len(self.body)))]
        exchange.send_head(self.code, [("Date", http_date(exchange.now())), *self.fields, *length], self.reason)
        if not exchange.is_head and not bodiless:
            exchange.send(self.body)


class Redirect:
    """A redirect to *location*, a string or a callable of the Seen request. Honest."""

    def __init__(
        self, location: str | Callable[[Seen], str], status: int = 302, fields: Iterable[Pair] = ()
    ) -> None:
        self.location = location
        self.status = status
        self.fields = tuple(fields)

    def __call__(self, exchange: Exchange) -> None:
        location = self.location(exchange.seen) if callable(self.location) else self.location
        Status(self.status, b"elsewhere\n", (("Location", location), *self.fields))(exchange)


class RedirectLoop(Redirect):
    """A redirect to itself, for ever; with `grow=True` each to a new query, so that no URL comes twice."""

    def __init__(self, status: int = 302, *, grow: bool = False) -> None:
        counter = itertools.count(1)
        super().__init__(lambda seen: f"{seen.path}?n={next(counter)}" if grow else seen.path, status)


class Sequence:
    """The n-th request gets the n-th behaviour, the last one for ever."""

    def __init__(self, *behaviours: Behaviour) -> None:
        self.behaviours = behaviours
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            behaviour = self.behaviours[min(self.count, len(self.behaviours) - 1)]
            self.count += 1
        behaviour(exchange)


class Held:
    """Counts who arrives and answers nobody before `release`; then as *then*. Honest, only slow."""

    def __init__(self, then: Behaviour) -> None:
        self.then = then
        self.arrivals = self.departures = 0
        self._changed = threading.Condition()
        self._released = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        with self._changed:
            self.arrivals += 1
            self._changed.notify_all()
        try:
            exchange.stall(self._released)
        except Vanished:
            with self._changed:
                self.departures += 1
                self._changed.notify_all()
            raise
        self.then(exchange)

    def arrived(self, count: int = 1, timeout: float = 30) -> None:
        """Wait until *count* requests have arrived. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.arrivals >= count, timeout):
                raise TimeoutError(f"waited {timeout} s for {count} arrivals, saw {self.arrivals}")

    def left(self, count: int = 1, timeout: float = 30) -> None:
        """Wait until *count* clients have gone without their answer. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.departures >= count, timeout):
                raise TimeoutError(f"waited {timeout} s for {count} to leave, saw {self.departures}")

    def release(self) -> None:
        """Answer those who wait and those who come."""
        self._released.set()

    def hold(self) -> None:
        """Hold those who come from now on."""
        self._released.clear()


class Interim:
    """Interim responses before the answer of *then* (RFC 9110 section 15.2); 103 carries a Link. Honest."""

    def __init__(self, then: Behaviour, codes: Iterable[int] = (100, 103)) -> None:
        self.then = then
        self.codes = tuple(codes)

    def __call__(self, exchange: Exchange) -> None:
        for code in self.codes:
            link = "Link: </style.css>; rel=preload; as=style\r\n" if code == 103 else ""
            exchange.send(f"HTTP/1.1 {code} {HTTPStatus(code).phrase}\r\n{link}\r\n".encode())
        self.then(exchange)


class CloseDelimited:
    """A body that only the end of the connection ends (RFC 9112 section 6.3, last case). Honest when whole.

    With `cut_after` it ends early, which a client cannot tell from the true end; `how="rst"` it can.
    """

    def __init__(
        self,
        body: bytes,
        version: str = "HTTP/1.0",
        *,
        fields: Iterable[Pair] = (),
        cut_after: int | None = None,
        how: How = "fin",
    ) -> None:
        self.body = body
        self.version = version
        self.fields = tuple(fields)
        self.cut_after = cut_after
        self.how = how

    def __call__(self, exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Type", "text/plain"), *self.fields], version=self.version)
        if not exchange.is_head:
            exchange.send(self.body[: self.cut_after])
        exchange.cut(self.how)


class Chunked:
    """A chunked body (RFC 9112 section 7.1) in pieces of `sizes`: one size, or several in turn.

    Honest, unless: `cut_after=N` ends the connection after N bytes of content (`how`: "fin" or "rst"),
    without the last chunk; `bad_chunk=True` sends a second chunk whose size is not hexadecimal, then FIN.
    Range is ignored.
    """

    def __init__(
        self,
        body: bytes,
        sizes: int | Iterable[int] = 16384,
        trailer: Iterable[Pair] = (),
        cut_after: int | None = None,
        bad_chunk: bool = False,
        *,
        how: How = "fin",
        fields: Iterable[Pair] = (),
    ) -> None:
        self.body = body
        self.sizes = (sizes,) if isinstance(sizes, int) else tuple(sizes)
        self.trailer = tuple(trailer)
        self.cut_after = cut_after
        self.bad_chunk = bad_chunk
        self.how: How = how
        self.fields = tuple(fields)

    def __call__(self, exchange: Exchange) -> None:
        fields = [("Content-Type", "text/plain"), *self.fields, ("Transfer-Encoding", "chunked")]
        if self.trailer:
            fields.append(("Trailer", ", ".join(name for name, _ in self.trailer)))
        exchange.send_head(200, fields)
        if exchange.is_head:
            return
        sizes = itertools.cycle(self.sizes)
        at = 0
        while at < len(self.body):
            piece = self.body[at : at + next(sizes)]
            if self.cut_after is not None and at + len(piece) > self.cut_after:
                exchange.send(b"%x\r\n%b" % (len(piece), piece[: self.cut_after - at]))
                exchange.cut(self.how)
                return
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            at += len(piece)
            if self.bad_chunk:
                exchange.send(b"zz\r\nthis is no chunk\r\n")
                exchange.cut(self.how)
                return
        if self.cut_after is not None:
            exchange.cut(self.how)
            return
        trailer = "".join(f"{name}: {value}\r\n" for name, value in self.trailer)
        exchange.send(f"0\r\n{trailer}\r\n".encode("latin-1"))


# --- bad days -------------------------------------------------------------------------------------------


class CutEvery:
    """Each connection carries `bytes_per_connection` bytes of body, then it is cut.

    The head is true, so a cut body is shorter than its Content-Length (RFC 9112 section 6.3: incomplete).
    Ranges are honoured as by *resource*; an answer that fits into what the connection may still carry is
    whole.
    """

    def __init__(self, resource: Resource, bytes_per_connection: int = 200_000, how: How = "fin") -> None:
        self.resource = resource
        self.bytes_per_connection = bytes_per_connection
        self.how: How = how
        self.cuts = 0
        self._carried: dict[int, int] = {}
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        answer = self.resource.answer(exchange.seen)
        with self._lock:
            carried = self._carried.get(exchange.seen.connection, 0)
            left = self.bytes_per_connection - carried
            size = 0 if exchange.is_head else len(answer.body)
            self._carried[exchange.seen.connection] = carried + min(size, left)
            self.cuts += size > left
        if size <= left:
            exchange.answer(answer)
        else:
            exchange.answer(answer, stop=left)
            exchange.cut(self.how)


class FailFirst:
    """The first `times` requests fail: "rst" or "fin" without a byte, or a status; afterwards *then*."""

    def __init__(self, then: Behaviour, times: int, how: How | int = "rst") -> None:
        self.then = then
        self.times = times
        self.how: How | int = how
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.count += 1
            fails = self.count <= self.times
        if not fails:
            self.then(exchange)
        elif isinstance(self.how, int):
            Status(self.how, b"not now\n")(exchange)
        else:
            exchange.cut(self.how)


class Busy:
    """The first `times` requests get *status*, 429 or 503 (RFC 6585 section 4, RFC 9110 section 15.6.4).

    `retry_after`: None (no field), "2" (as it is), "date" (an HTTP-date `delay_s` after `clock()`), or a
    callable that gives the value. `date` replaces the Date field, for a server whose clock is wrong.
    `clock` is the origin's unless given.
    """

    def __init__(
        self,
        then: Behaviour,
        times: int,
        status: int = 429,
        retry_after: str | Callable[[], str] | None = None,
        *,
        delay_s: float = 2,
        clock: Callable[[], datetime] | None = None,
        date: datetime | str | None = None,
    ) -> None:
        self.then = then
        self.times = times
        self.status = status
        self.retry_after = retry_after
        self.delay_s = delay_s
        self.clock = clock
        self.date = date
        self.count = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.count += 1
            busy = self.count <= self.times
        if not busy:
            self.then(exchange)
            return
        now = (self.clock or exchange.now)()
        body = b"busy\n"
        fields = [("Date", http_date(now if self.date is None else self.date))]
        if callable(self.retry_after):
            fields.append(("Retry-After", self.retry_after()))
        elif self.retry_after == "date":
            fields.append(("Retry-After", http_date(now + timedelta(seconds=self.delay_s))))
        elif self.retry_after is not None:
            fields.append(("Retry-After", self.retry_after))
        exchange.answer(Answer(self.status, tuple(fields), body))


class Stall:
    """The head and `after_bytes` bytes of body, then nothing until *event*; then the rest.

    `after_bytes=None` stalls before the head. `times` limits how many answers stall (None: all). `reached`
    is set when an answer stands still.
    """

    def __init__(
        self,
        resource: Resource,
        after_bytes: int | None,
        event: threading.Event,
        *,
        times: int | None = None,
    ) -> None:
        self.resource = resource
        self.after_bytes = after_bytes
        self.event = event
        self.times = times
        self.count = 0
        self.reached = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        with self._lock:
            self.count += 1
            stalls = self.times is None or self.count <= self.times
        answer = self.resource.answer(exchange.seen)
        if not stalls:
            exchange.answer(answer)
            return
        if self.after_bytes is not None:
            exchange.answer(answer, stop=self.after_bytes)
        self.reached.set()
        exchange.stall(self.event)
        if self.after_bytes is None:
            exchange.answer(answer)
        else:
            exchange.send_body(answer, start=self.after_bytes)


class Drip:
    """The head at once, then *piece* bytes of body each time that *gate* (a Semaphore) is released."""

    def __init__(self, resource: Resource, piece: int, gate: _Gate) -> None:
        self.resource = resource
        self.piece = piece
        self.gate = gate

    def __call__(self, exchange: Exchange) -> None:
        answer = self.resource.answer(exchange.seen)
        exchange.answer(answer, stop=0)
        if exchange.is_head:
            return
        for start in range(0, len(answer.body), self.piece):
            exchange.acquire(self.gate)
            exchange.send_body(answer, start=start, stop=start + self.piece)


# --- lies -----------------------------------------------------------------------------------------------


class IgnoreRange:
    """200 with the whole body, whatever Range says: allowed (RFC 9110 section 14.2), but *resource* still
    advertises ranges. `cut_first=N` cuts the first GET after N bytes."""

    def __init__(self, resource: Resource, *, cut_first: int | None = None, how: How = "fin") -> None:
        self.resource = resource
        self.cut_first = cut_first
        self.how: How = how
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        seen = replace(exchange.seen, fields=exchange.seen.fields.without("range", "if-range"))
        answer = self.resource.answer(seen)
        stop = None
        if answer.status == 200 and seen.method == "GET":
            with self._lock:
                stop, self.cut_first = self.cut_first, None
        exchange.answer(answer, stop=stop)
        if stop is not None:
            exchange.cut(self.how)


class ChangeValidator:
    """Each GET is answered from the next of *bodies* (body, etag), all but the last one cut after `cut_at`
    bytes.

    `honour_if_range=False` breaks RFC 9110 section 13.1.5: If-Range named an old representation and the
    answer is 206 out of the new one, with the new ETag and total. HEAD tells of the representation last
    served.
    """

    def __init__(
        self,
        bodies: Iterable[tuple[bytes, str | None]],
        cut_at: int,
        *,
        honour_if_range: bool = True,
        how: How = "fin",
    ) -> None:
        self.resources = [Resource(body, etag=etag) for body, etag in bodies]
        self.cut_at = cut_at
        self.honour_if_range = honour_if_range
        self.how: How = how
        self.gets = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        seen = exchange.seen
        with self._lock:
            self.gets += seen.method == "GET"
            index = min(max(self.gets - 1, 0), len(self.resources) - 1)
        if not self.honour_if_range:
            seen = replace(seen, fields=seen.fields.without("if-range"))
        answer = self.resources[index].answer(seen)
        if index == len(self.resources) - 1 or exchange.is_head or len(answer.body) <= self.cut_at:
            exchange.answer(answer)
        else:
            exchange.answer(answer, stop=self.cut_at)
            exchange.cut(self.how)


class LengthLie:
    """A Content-Length of `declared` that is not the length of the body (RFC 9110 section 8.6), then the
    end.

    Declared too much: the body is short and FIN (or RST) follows. Declared too little: surplus bytes follow
    the body; with `keep=True` the connection stays open, so that they look like the next answer.
    """

    def __init__(
        self,
        body: bytes,
        declared: int,
        *,
        etag: str | None = None,
        fields: Iterable[Pair] = (),
        how: How = "fin",
        keep: bool = False,
    ) -> None:
        self.body = body
        self.declared = declared
        tag = () if etag is None else (("ETag", etag),)
        self.fields: tuple[Pair, ...] = (("Content-Type", "text/plain"), *tag, *fields)
        self.how: How = how
        self.keep = keep

    def __call__(self, exchange: Exchange) -> None:
        exchange.send_head(200, [*self.fields, ("Content-Length", str(self.declared))])
        if not exchange.is_head:
            exchange.send(self.body)
            if not self.keep:
                exchange.cut(self.how)


class WrongRange:
    """The first whole GET is cut after `cut_first` bytes (half of it unless given); then 206 answers lie.

    RFC 9110 section 15.3.7 is broken as named: `start_delta` and `last_delta` serve, and name, another part
    than the one asked for; `total_delta` and `total` falsify the complete length only (`total="*"`:
    unknown, which is allowed); `etag` gives another validator; `missing=True` omits Content-Range;
    `multipart=True` answers one range as multipart/byteranges. `times` limits the lies (None: all). Later
    whole GETs are honest.
    """

    def __init__(
        self,
        resource: Resource,
        *,
        start_delta: int = 0,
        last_delta: int = 0,
        total_delta: int = 0,
        total: str | None = None,
        etag: str | None = None,
        missing: bool = False,
        multipart: bool = False,
        cut_first: int | None = None,
        times: int | None = None,
        how: How = "fin",
    ) -> None:
        self.resource = resource
        self.start_delta = start_delta
        self.last_delta = last_delta
        self.total_delta = total_delta
        self.total = total
        self.etag = etag
        self.missing = missing
        self.multipart = multipart
        self.cut_first = cut_first
        self.times = times
        self.how: How = how
        self.wholes = self.lies = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> None:
        answer = self.resource.answer(exchange.seen)
        with self._lock:
            whole = answer.status == 200 and exchange.seen.method == "GET"
            self.wholes += whole
            cuts = whole and self.wholes == 1
            lies = answer.status == 206 and (self.times is None or self.lies < self.times)
            self.lies += lies
        if lies:
            exchange.answer(self._bend(answer))
        elif cuts:
            exchange.answer(answer, stop=len(answer.body) // 2 if self.cut_first is None else self.cut_first)
            exchange.cut(self.how)
        else:
            exchange.answer(answer)

    def _bend(self, answer: Answer) -> Answer:
        assert answer.span is not None
        start = max(0, answer.span[0] + self.start_delta)
        stop = min(len(answer.whole), answer.span[1] + self.last_delta)
        body = memoryview(answer.whole)[start:stop]
        total = self.total or str(len(answer.whole) + self.total_delta)
        named = f"bytes {start}-{stop - 1}/{total}"
        if self.etag is not None:
            answer = answer.with_field("ETag", self.etag)
        if self.multipart:
            head = f"--FOREBAY\r\nContent-Type: text/plain\r\nContent-Range: {named}\r\n\r\n".encode()
            answer = replace(answer, body=head + bytes(body) + b"\r\n--FOREBAY--\r\n")
            answer = answer.with_field("Content-Type", "multipart/byteranges; boundary=FOREBAY")
            return answer.with_field("Content-Range", None)
        return replace(answer, body=body).with_field("Content-Range", None if self.missing else named)


class Coded(Resource):
    """A resource that is compressed although identity was asked for (RFC 9110 section 12.5.3).

    `coded` are the bytes on the wire; ranges and lengths are of them.
    """

    def __init__(
        self, body: bytes, coding: Literal["gzip", "deflate"] = "gzip", *, etag: str | None = '"v1"'
    ) -> None:
        self.coded = gzip.compress(body, mtime=0) if coding == "gzip" else zlib.compress(body)
        super().__init__(self.coded, etag=etag, fields=[("Content-Encoding", coding)])


class TwoLengths:
    """Two Content-Length fields (RFC 9112 section 6.3: an unrecoverable error unless equal), then FIN."""

    def __init__(self, body: bytes, first: int, second: int) -> None:
        self.body = body
        self.first = first
        self.second = second

    def __call__(self, exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", str(self.first)), ("Content-Length", str(self.second))])
        if not exchange.is_head:
            exchange.send(self.body)
        exchange.close()


class LengthAndChunks:
    """Content-Length beside Transfer-Encoding (RFC 9112 section 6.1: MUST NOT); the chunks are right."""

    def __init__(self, body: bytes, declared: int) -> None:
        self.body = body
        self.declared = declared

    def __call__(self, exchange: Exchange) -> None:
        Chunked(self.body, fields=[("Content-Length", str(self.declared))])(exchange)


class HugeHead:
    """`total_bytes` bytes of filler fields in the head of *then*'s answer, in lines of `line_bytes` (CRLF
    counted).

    `line_bytes=total_bytes` is one single line. No law is broken, only every sane limit.
    """

    def __init__(self, total_bytes: int = 200_000, line_bytes: int = 4000, *, then: Behaviour) -> None:
        self.then = then
        self.filler: list[Pair] = []
        overhead = len("X-Filler-000000: \r\n")
        left = total_bytes
        while left:
            line = left if left < line_bytes + overhead else line_bytes
            if line < overhead:
                raise ValueError(f"a filler line has at least {overhead} bytes, not {line}")
            self.filler.append((f"X-Filler-{len(self.filler):06d}", "f" * (line - overhead)))
            left -= line

    def __call__(self, exchange: Exchange) -> None:
        exchange.extra_fields += self.filler
        self.then(exchange)


@dataclass(slots=True)
class Garbage:
    """*wire* in place of a status line, then the end (RFC 9112 section 4); `b""` is an empty answer."""

    wire: bytes
    how: How = field(default="fin", kw_only=True)

    def __call__(self, exchange: Exchange) -> None:
        exchange.send(self.wire)
        exchange.cut(self.how)
