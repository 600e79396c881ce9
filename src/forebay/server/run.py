"""`forebay serve`: granian's API processes and one fetch worker, kept running until somebody says stop.

Nothing that was started outlives this process: API processes watch it through a pipe, the fetch worker's stdin
is one. Otherwise a killed server would leave its port taken.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import multiprocessing
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import resource_tracker
from typing import Any

from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.server import MPServer

from forebay.bay import Forebay
from forebay.errors import InvalidValue, PortTaken, StorageFailed
from forebay.server.access import Hosts, Origins
from forebay.server.process import load
from forebay.settings import ServerSettings

log = logging.getLogger(__name__)

Tell = Callable[[str], None]
Announce = Callable[[str, bool], None]

# nginx and Apache take 8 KiB of URL and 32 KiB of fields; a URL at the door may be percent-encoded wholly.
_MAX_HEAD_BYTES = 64 << 10
# A head that takes longer is an attack or a dead client (nginx: 60 s, Apache: 20 to 40 s). Between requests, too.
_HEAD_TIMEOUT_MS = 30_000
_STREAMS = 100  # at once on one HTTP/2 connection; RFC 9113 section 6.5.2 asks for at least that
_BACKLOG = 1024
# Each connection has a descriptor and perhaps an open content; the rest is for the catalog and ourselves.
_DESCRIPTORS_EACH, _DESCRIPTORS_SPARE = 2, 256
_WORKER_BACKOFF_S = (0.1, 30.0)
# A fetch worker that lived so long did not die of what it was started with.
_WORKER_WELL_S = 60.0
# For a fetch worker to suspend what runs.
_SUSPEND_S = 15.0
_CONNECT_EVERY_S = 0.02


def serve(
    settings: ServerSettings, *, worker: Sequence[str], announce: Announce, tell: Tell, number: int | None = None
) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. *worker*: the command of the fetch worker, which ends when its
    stdin does. *announce* gets the base URL once connections are accepted, and whether a token is needed; *tell*,
    what goes on. *number*: that of the Forebay with functions (`forebay.server.loading.Found`).

    Raises `InvalidValue`, `PortTaken`, `StorageError`.
    """
    closed = _check(settings)
    multiprocessing.set_start_method("spawn", force=True)  # a fork beside threads may inherit held locks
    _raise_file_limit()
    with reserved(settings.host, settings.port) as address:
        server = _make_server(settings, *address)
        base = base_url(*address, tls=settings.tls_cert is not None)
        fetching = _FetchWorker(worker, tell)
        stop = _Stop(server, fetching)
        stop.take_signals()
        server.on_startup(stop.handle_signals)  # granian has set handlers of its own by then
        fetching.start()
        threading.Thread(
            target=partial(_announce, address, base, partial(announce, base, closed)), daemon=True
        ).start()
        try:
            server.serve(target_loader=partial(load, settings, number), wrap_loader=False)
        except SystemExit as end:
            # Whoever tells all processes to stop tells those first, perhaps, that have nothing to do.
            if end.code and not stop.told:
                tell("an API process that had just been started anew ended again; the server ends")
                return 2
        finally:
            fetching.stop()
    return 0


# --- before anything is started -------------------------------------------------------------------------


def _check(settings: ServerSettings) -> bool:
    """Whether a token is needed. Raises what would otherwise come from each process in turn."""
    Hosts.of(settings.host, settings.allow_hosts)
    Origins.of(settings.allow_origins)
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise InvalidValue("tls_key", expected="it and tls_cert, or neither", got="one of them")
    with Forebay(settings) as bay:
        closed = bay.tokens.exist()
    if not (closed or settings.insecure or is_loopback(settings.host)):
        raise InvalidValue(
            "host",
            expected="a loopback address, or a token (`forebay token add`), or --insecure: others reach this one",
            got=settings.host,
        )
    return closed


def _resolve(host: str) -> tuple[int, str]:
    """Family and IP address of *host*; IPv4 before IPv6, as curl does with localhost."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InvalidValue("host", expected="an address of this machine, or a name of one", got=host) from error
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, str(address[0])


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches *host*, an address or a name. Raises `InvalidValue`."""
    return ipaddress.ip_address(_resolve(host)[1].partition("%")[0]).is_loopback


@contextlib.contextmanager
def reserved(host: str, port: int) -> Iterator[tuple[str, int]]:
    """The address to listen on, ours for the time being. Raises `PortTaken`, `InvalidValue`.

    granian's processes each bind it with SO_REUSEPORT, which another server of the same user could join
    unnoticed. So it is bound without that first, and kept with it: then only who sets it later can join."""
    family, address = _resolve(host)
    with _bound(family, address, port) as place:
        bound = int(place.getsockname()[1])
        if sys.platform == "linux":
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        else:
            place.close()
        yield address, bound


def _bound(family: int, address: str, port: int) -> socket.socket:
    # With SO_REUSEADDR alone, two that do not listen yet may have one port; without it, connections that have
    # ended a minute ago keep it.
    for reuse in (False, True):
        place = socket.socket(family, socket.SOCK_STREAM)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        try:
            place.bind((address, port))
        except OSError as error:
            place.close()
            if isinstance(error, PermissionError):
                raise InvalidValue("port", expected="one that this user may listen on", got=port) from error
            if reuse or error.errno != errno.EADDRINUSE:
                reason = error.strerror or str(error)
                raise PortTaken(address=address, port=port, reason=reason) from error
        else:
            return place
    raise AssertionError("the second round returns or raises")


def _raise_file_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS refuses "unlimited"
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _connections(settings: ServerSettings) -> int:
    """Connections at once in one API process: as many as are wanted, and have descriptors."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = max(1, settings.max_connections // settings.workers)
    if limit == resource.RLIM_INFINITY:
        return wanted
    return max(16, min(wanted, (limit - _DESCRIPTORS_SPARE) // _DESCRIPTORS_EACH))


def _make_server(settings: ServerSettings, address: str, port: int) -> MPServer:
    try:
        return MPServer(
            "forebay",
            address=address,
            port=port,
            interface=Interfaces.ASGI,
            workers=settings.workers,
            loop=Loops.asyncio,
            # While both are possible, granian waits for the first byte for ever; with TLS, ALPN decides later.
            http=HTTPModes.http1 if settings.tls_cert is None else HTTPModes.auto,
            websockets=False,
            backlog=_BACKLOG,
            backpressure=_connections(settings),
            http1_settings=HTTP1Settings(
                header_read_timeout=_HEAD_TIMEOUT_MS, max_buffer_size=settings.receive_buffer_bytes
            ),
            http2_settings=HTTP2Settings(
                max_concurrent_streams=_STREAMS,
                max_headers_size=_MAX_HEAD_BYTES,
                keep_alive_interval=_HEAD_TIMEOUT_MS,
            ),
            log_level=LogLevels.error,
            log_dictconfig=_LOGGING,
            ssl_cert=settings.tls_cert,
            ssl_key=settings.tls_key,
            ssl_protocol_min=SSLProtocols.tls12,
            respawn_failed_workers=True,
            workers_kill_timeout=settings.drain_s,
        )
    except (OSError, ssl.SSLError) as error:  # the only files that it opens
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise InvalidValue(
            "tls_cert", expected=f"a certificate and its key in PEM ({reason})", got=str(settings.tls_cert)
        ) from error


# stdout is for data; a server has none.
_LOGGING: dict[str, Any] = {
    "handlers": {
        "console": {"formatter": "generic", "class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
    },
    "formatters": {"generic": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "loggers": {"_granian": {"handlers": ["console"], "level": "ERROR", "propagate": False}},
}


def base_url(address: str, port: int, *, tls: bool) -> str:
    """The URL that clients on this machine use."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_unspecified:
        address = "::1" if ip.version == 6 else "127.0.0.1"
    host = f"[{address}]" if ":" in address else address
    return f"{'https' if tls else 'http'}://{host}:{port}"


def _announce(address: tuple[str, int], base: str, announce: Callable[[], None]) -> None:
    """Tell when the first connection is accepted: granian does not."""
    host = base.partition("://")[2].rpartition(":")[0].strip("[]")
    while True:
        try:
            socket.create_connection((host, address[1]), timeout=5).close()
        except OSError:
            time.sleep(_CONNECT_EVERY_S)
        else:
            announce()
            return


# --- the fetch worker -----------------------------------------------------------------------------------


class _FetchWorker:
    """Keeps a fetch worker running, in a thread."""

    def __init__(self, command: Sequence[str], tell: Tell) -> None:
        self._command, self._tell = command, tell
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="forebay-supervisor", daemon=True)

    def start(self) -> None:
        self._start_one()
        self._thread.start()

    def _start_one(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set():
                return None
            try:
                self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE)  # noqa: S603 - our own
            except OSError as error:
                raise StorageFailed("the fetch worker could not be started", reason=str(error)) from error
            return self._process

    def _run(self) -> None:
        shortest, longest = _WORKER_BACKOFF_S
        pause = shortest
        process = self._process
        while process is not None:
            started_at = time.monotonic()
            code = process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - started_at > _WORKER_WELL_S:
                pause = shortest
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            self._tell(f"the fetch worker ended with {how}; it is started again in {pause:g} s")
            self._stopping.wait(pause)
            pause = min(2 * pause, longest)
            process = self._restarted()

    def _restarted(self) -> subprocess.Popen[bytes] | None:
        try:
            return self._start_one()
        except StorageFailed as error:
            self._tell(str(error))
            self._stopping.wait(_WORKER_BACKOFF_S[1])
            return None if self._stopping.is_set() else self._restarted()

    def stop(self) -> None:
        """End it: it suspends what runs."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is None or process.stdin is None:
            return
        process.stdin.close()
        try:
            process.wait(_SUSPEND_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End it at once, and wait for nothing: this process ends, too."""
        if self._process is not None:
            self._process.kill()


# A terminal and systemd send them to each process; who ends when, and how, is decided in one place.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stop:
    """The first signal drains, the second one ends at once."""

    def __init__(self, server: MPServer, fetching: _FetchWorker) -> None:
        self._server, self._fetching = server, fetching
        self.told = False
        # nohup: who ignores the end of its terminal when it is started goes on doing so.
        self._is_left_alone = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def take_signals(self) -> None:
        """Have signals told to a thread: a handler runs in the middle of anything, and must not wait for a lock
        that the main thread holds. Whatever is started from now on is not interrupted by them."""
        resource_tracker.ensure_running()  # it would be started with the first process, and unblock them
        come, sent = os.pipe()
        os.set_blocking(sent, False)
        signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
        self.handle_signals()
        threading.Thread(target=self._listen, args=(come,), name="forebay-signals", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # in this thread, and in what it starts

    def handle_signals(self) -> None:
        """Without a handler of Python's a signal would not be told."""
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        if self._is_left_alone:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _listen(self, come: int) -> None:
        os.read(come, 1)
        self.told = True
        self._server.signal_handler_interrupt()  # type: ignore[no-untyped-call]
        number = os.read(come, 1)[0]
        for worker in self._server.wrks:
            worker.kill()  # type: ignore[no-untyped-call]
        self._fetching.kill()
        os._exit(128 + number)
