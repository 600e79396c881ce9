"""What is remembered of files that are being sent, so that another process goes on where this one ended.

One small file each, beside the content cache: its name is a digest of the server and of the file's identity, so
what was sent of a file that has changed since is never gone on with. Held with an flock while the file is sent.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from forebay.durable import storage_errors
from forebay.sources import Identity

# Servers keep an unfinished upload for a day unless they are told otherwise.
_KEEP_S = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class Part:
    """The upload of ``[start, stop)`` of a file."""

    uid: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Begun:
    """How far the sending of a file is. *whole*: the upload that is, or becomes, all of it. *parts*: those that it
    is to be put together of. *sha256*: of the file, once that is known."""

    whole: str | None = None
    parts: tuple[Part, ...] = ()
    sha256: str | None = None


class Journal:
    """What is remembered of one file. Not held, it neither tells nor remembers: somebody else sends that file."""

    def __init__(self, folder: Path, server: str, identity: Identity) -> None:
        known_by = json.dumps([server, *asdict(identity).values()])
        self._path = folder / hashlib.sha256(known_by.encode(errors="surrogatepass")).hexdigest()
        self._descriptor = -1
        self._lock = threading.Lock()
        self.begun = Begun()

    def take(self) -> bool:
        """Hold it, and read what it says; False when somebody else does."""
        with self._errors():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sweep()
            while True:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    return False
                if self._is_at(descriptor):
                    break
                os.close(descriptor)  # whoever held it has just removed it
        self._descriptor = descriptor
        self.begun = _read(descriptor)
        return True

    def _is_at(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def note(self, **changes: Any) -> None:
        """Remember *changes* of `begun`."""
        # A thread that is not waited for may come after the end: its file is closed, and its number another's.
        with self._lock, self._errors():
            self.begun = replace(self.begun, **changes)
            if self._descriptor >= 0:
                # In place, for it is the file itself that is held. What a crash leaves of it has no newline at its
                # end: then the file is sent anew.
                os.ftruncate(self._descriptor, 0)
                os.pwrite(self._descriptor, (json.dumps(asdict(self.begun)) + "\n").encode(), 0)

    def forget(self) -> None:
        """It is over, or nothing of it is of use: begin anew."""
        self.note(whole=None, parts=(), sha256=None)

    def close(self, *, is_over: bool) -> None:
        """Let it go; what *is_over* is remembered no more."""
        with self._lock:
            if self._descriptor < 0:
                return
            if is_over or self.begun == Begun():
                with contextlib.suppress(OSError):
                    self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1

    def _sweep(self) -> None:
        """Remove what nobody has gone on with."""
        before = time.time() - _KEEP_S
        with os.scandir(self._path.parent) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.stat().st_mtime < before:
                        with Path(entry.path).open("rb") as file:
                            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # else it goes on still
                            Path(entry.path).unlink()

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return storage_errors(f"the folder {self._path.parent}", self._path.parent)


def _read(descriptor: int) -> Begun:
    text = os.pread(descriptor, 1 << 20, 0)
    try:
        found = json.loads(text) if text.endswith(b"\n") else {}
        return Begun(**{**found, "parts": tuple(Part(**part) for part in found.get("parts", ()))})
    except (ValueError, TypeError, AttributeError):
        return Begun()  # of a crash, or of another Forebay
