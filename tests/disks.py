"""Small disks: a tmpfs in a mount namespace of a child process, which goes with it."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest


def in_a_namespace(disk: Path) -> Sequence[str]:
    """The command under which a process may mount a tmpfs at *disk*. Skips the test where that cannot be."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        pytest.skip("needs Linux with unshare and mount (util-linux) for a small tmpfs")
    under = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    probe = [*under, "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"needs root or user namespaces to mount a small tmpfs: {done.stderr.strip()}")
    return under


def on_a_small_disk(disk: Path, *, size_mib: int) -> Sequence[str]:
    """The command under which a process has a tmpfs of that size at *disk*."""
    mount = f'mount -t tmpfs -o size={size_mib}m tmpfs "$0" && exec "$@"'
    return [*in_a_namespace(disk), "sh", "-c", mount, str(disk)]


class SmallDisk:
    """The disk at *place* as the process *pid* sees it."""

    def __init__(self, pid: int, place: Path) -> None:
        self._ballast = Path(f"/proc/{pid}/root{place}/ballast")

    def fill(self, *, leave: int = 0) -> None:
        """Use it up, but for *leave* bytes."""
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                pass
            ballast.truncate(max(0, ballast.tell() - leave))

    def free(self) -> None:
        """Have it as it was."""
        self._ballast.unlink()
