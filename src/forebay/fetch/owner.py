"""Who holds leases: a process, shown to be alive by a lock that dies with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path


class Owner:
    """This process (more exactly: this open folder of it) as a holder of leases.

    While it lives it holds an ``flock`` on ``owners/<id>.lock``; a kill -9 releases it at once, so that others
    can take over without waiting for a time to pass.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Locked before it has its name: nobody ever sees it unlocked while we live. Whoever found it between
        # its making and its locking has taken it for dead: then once more.
        while True:
            self.id = f"{os.getpid()}-{secrets.token_hex(8)}"
            early = folder / f"{self.id}.new"
            self._descriptor = os.open(early, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                early.rename(self._path(self.id))
            except FileNotFoundError:
                os.close(self._descriptor)
            else:
                return

    def _path(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"

    def is_alive(self, owner: str) -> bool:
        """Whether that owner still holds its lock."""
        if owner == self.id:
            return True
        return _is_locked(self._path(owner))

    def dead(self) -> list[str]:
        """Owners whose lock file is still there though they are gone."""
        names = [path.stem for path in self._folder.glob("*.lock")]
        for early in self._folder.glob("*.new"):  # killed before it had its name
            if not _is_locked(early):
                early.unlink(missing_ok=True)
        return [name for name in names if not self.is_alive(name)]

    def bury(self, owner: str) -> None:
        """Remove the lock file of an owner that is gone, once nothing in the catalog names it."""
        self._path(owner).unlink(missing_ok=True)

    def close(self) -> None:
        """Stop being alive."""
        if self._descriptor >= 0:
            with contextlib.suppress(OSError):
                self._path(self.id).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
