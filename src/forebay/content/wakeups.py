"""Wake-ups between the processes on one folder, by key: "look again", never "this is so".

Whoever waits for something watches its key; whoever has changed it rings. A ring is a Unix datagram: nobody
waits for anybody. It may be lost (a kill, two processes that see different folders as /tmp), so whoever waits
also looks every `LOOK_AGAIN_S`.

A watching process has one socket, in a short folder of its own: a socket's path may have 104 bytes (macOS), and
the data folder may be deep. ``wakeups/<key>/<owner>`` is a symlink to it. Links that a kill left behind are
removed by whoever finds nobody behind them; a socket that is not to be seen from here may be somebody's.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import socket
import stat
import tempfile
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
"""How long to wait for a ring before looking anyway."""

# With the names of our folder and of the socket in it, this fits into 104 bytes.
_PARENT_BYTES = 70
_PREFIX = "forebay-wake-"
_DATAGRAM_BYTES = 256
_TRIES = 1000
# What sendto says of a full buffer: EAGAIN on Linux, ENOBUFS on macOS.
_FULL = (errno.EAGAIN, errno.ENOBUFS)
_NO_WAKEUPS = "no wake-ups, so whoever waits for a download here waits a little longer: %s"


class Watch:
    """A call that is made when its key is rung, until `close`."""

    def __init__(self, hub: _Hub | None, key: str, call: Callable[[], None]) -> None:
        self._hub, self._key, self.call = hub, key, call

    def close(self) -> None:
        """Make no more calls; one that has begun may still be under way. Closing twice is closing once."""
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.remove(self._key, self)


class Wakeups:
    """Who is to be woken, of all processes on one data folder. Usable from any thread.

    *owner* names this process, to no other `Wakeups`; *is_alive*: whether the process that another one names is
    there.
    """

    def __init__(self, folder: Path, *, owner: str, is_alive: Callable[[str], bool]) -> None:
        self._folder, self._owner, self._is_alive = folder, owner, is_alive
        self._lock = threading.Lock()
        self._hub: _Hub | None = None
        self._sender: socket.socket | None = None
        self._closed = False
        self._warned = False

    def watch(self, key: str, call: Callable[[], None]) -> Watch:
        """Have *call* called, in a thread of ours, whenever *key* (a name without slashes) was rung; it must
        return soon. Where no socket can be had it is never called: who waits looks now and then anyway."""
        with self._lock:
            if self._hub is None and not self._closed:
                try:
                    self._hub = _Hub(self._folder, self._owner)
                except OSError as error:  # no descriptor left, say: perhaps the next one gets it
                    if not self._warned:
                        log.warning(_NO_WAKEUPS, error)
                    self._warned = True
            hub = self._hub
        watch = Watch(hub, key, call)
        if hub is not None:
            hub.add(key, watch)
        return watch

    def ring(self, key: str) -> None:
        """Wake who watches *key*, in this process and in others. Never waits, never fails; next to free when
        nobody watches."""
        place = f"{self._folder}/{key}"
        try:
            hubs = os.listdir(place)  # noqa: PTH208 - 3 us, for every block that lands
        except OSError:
            return
        sender = self._open_sender() if hubs else None
        if sender is None:
            return
        for hub in hubs:
            with contextlib.suppress(OSError):  # the link or the whole folder has gone
                link = f"{place}/{hub}"
                self._send(sender, key, link=link, address=os.readlink(link))  # noqa: PTH115

    def _open_sender(self) -> socket.socket | None:
        with self._lock:
            if self._sender is None and not self._closed:
                with contextlib.suppress(OSError):  # out of descriptors: this ring is lost
                    self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    self._sender.setblocking(False)
            return self._sender

    def sweep(self) -> None:
        """Remove what killed processes have left, of keys that nobody rings any more, too."""
        links: list[Path] = []
        with contextlib.suppress(OSError):  # folders come and go under our eyes
            links += self._folder.glob("*/*")
        for link in links:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as caller:
                address = os.readlink(link)  # noqa: PTH115
                try:
                    caller.connect(address)
                except OSError as error:
                    if self._is_nobody(error, link.name):
                        _bury(link, Path(address))

    def _send(self, sender: socket.socket, key: str, *, link: str, address: str) -> None:
        try:
            sender.sendto(key.encode(), address)
        except OSError as error:
            if error.errno in _FULL:
                # Full of rings for other keys: on some systems ten are enough. The note says that some were lost.
                # It is made before the second attempt: if that fails too, something is received later than the
                # note was made, and whoever receives looks for a note afterwards.
                _note(address).touch(mode=0o600)
                sender.sendto(key.encode(), address)
            elif self._is_nobody(error, Path(link).name):
                _bury(Path(link), Path(address))

    def _is_nobody(self, error: OSError, owner: str) -> bool:
        # No such file does not mean no such process: a container's /tmp is its own, and so is a service's with
        # systemd's PrivateTmp. The lock of its owner is in the data folder, which all of them see.
        gone = error.errno == errno.ENOENT and not self._is_alive(owner)
        return gone or error.errno == errno.ECONNREFUSED

    def close(self) -> None:
        """Make no more calls, stop the thread, leave nothing behind. Rings are lost from then on."""
        with self._lock:
            self._closed = True
            hub, self._hub = self._hub, None
            sender, self._sender = self._sender, None
        if hub is not None:
            hub.close()
        if sender is not None:
            sender.close()


def _note(address: str) -> Path:
    return Path(f"{address}.lost")


def _bury(link: Path, address: Path) -> None:
    """Remove what a killed process has left."""
    _remove(link.unlink, link.parent.rmdir)
    _bury_home(address)


def _bury_home(address: Path) -> None:
    with contextlib.suppress(OSError):
        home = address.parent.lstat()
        # The name may be another user's by now: /tmp is everybody's.
        if stat.S_ISDIR(home.st_mode) and home.st_uid == os.geteuid() and address.is_socket():
            _remove(address.unlink, _note(str(address)).unlink, address.parent.rmdir)


def _remove(*steps: Callable[[], None]) -> None:
    for step in steps:
        with contextlib.suppress(OSError):  # gone, or a folder that is not empty
            step()


class _Hub:
    """The socket of one process, and who is called for what."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._lock = threading.Lock()
        self._watches: dict[str, dict[Watch, None]] = {}
        self._closing = False
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.ExitStack() as made:
            home = _make_home()
            # Also when nobody closes us; after a kill, whoever rings next does it.
            self._tidy = weakref.finalize(self, shutil.rmtree, home, ignore_errors=True)
            made.callback(self._tidy)
            self._address = f"{home}/s"
            self._socket = made.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self._socket.bind(self._address)
            self._thread = threading.Thread(target=self._run, name="forebay-wakeups", daemon=True)
            self._thread.start()
            made.pop_all()

    def add(self, key: str, watch: Watch) -> None:
        with self._lock:
            if self._closing:
                return
            watches = self._watches.setdefault(key, {})
            if not watches:
                self._register(self._folder / key)
            watches[watch] = None

    def _register(self, place: Path) -> None:
        try:
            for _ in range(_TRIES):  # others remove the folder whenever it is empty: then once more
                with contextlib.suppress(FileNotFoundError, FileExistsError):
                    place.mkdir(mode=0o700, parents=True, exist_ok=True)
                    (place / self._name).symlink_to(self._address)
                    return
        except OSError as error:  # a full disk
            log.warning(_NO_WAKEUPS, error)

    def remove(self, key: str, watch: Watch) -> None:
        with self._lock:
            watches = self._watches.get(key, {})
            if watch not in watches:
                return
            del watches[watch]
            if not watches:
                del self._watches[key]
                self._unregister(self._folder / key)

    def _unregister(self, place: Path) -> None:
        _remove((place / self._name).unlink, place.rmdir)

    def close(self) -> None:
        with self._lock:
            self._closing = True
            for key in self._watches:
                self._unregister(self._folder / key)
            self._watches.clear()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as caller:
            caller.setblocking(False)
            caller.sendto(b"", self._address)  # a buffer that is full wakes the thread as well
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._socket.close()
        self._tidy()

    def _run(self) -> None:
        while not self._closing:
            keys = self._receive()
            with self._lock:
                rung = list(self._watches) if keys is None else keys & self._watches.keys()
                calls = [watch.call for key in rung for watch in self._watches[key]]
            for call in calls:
                try:
                    call()
                except Exception:  # a bug of theirs must not keep others waiting
                    log.exception("a wake-up call failed")

    def _receive(self) -> set[str] | None:
        """Wait for rings: their keys; None when some were lost, and everyone must look."""
        keys = {self._socket.recv(_DATAGRAM_BYTES).decode(errors="replace")}
        with contextlib.suppress(BlockingIOError):
            while not self._closing:
                keys.add(self._socket.recv(_DATAGRAM_BYTES, socket.MSG_DONTWAIT).decode(errors="replace"))
        try:  # after the buffer was emptied: see `Wakeups._send`
            _note(self._address).unlink()
        except OSError:
            return keys
        return None


def _tidy_up(parent: Path) -> None:
    """Remove the homes of killed processes, of folders, too, that nobody opens any more."""
    with contextlib.suppress(OSError):  # they come and go under our eyes
        for address in parent.glob(f"{_PREFIX}*/s"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as caller:
                try:
                    caller.connect(str(address))
                except ConnectionRefusedError:
                    _bury_home(address)


def _make_home() -> str:
    """A new folder for this process alone, with a short path."""
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp: 0700, a name that nobody can guess
        if len(os.fsencode(parent)) <= _PARENT_BYTES:
            with contextlib.suppress(OSError):
                _tidy_up(Path(parent))
                return tempfile.mkdtemp(prefix=_PREFIX, dir=parent)
    raise OSError(errno.ENOENT, "no folder for a socket could be made, here or in /tmp")
