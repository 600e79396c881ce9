"""What the system says of running processes, from ``/proc``: whose children they are, and what they hold."""

import os
import select
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

PROC = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir() or not hasattr(os, "pidfd_open"),
    reason="needs Linux: looks at processes in /proc",
)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that runs, or ran."""

    pid: int
    command: str

    def rss_bytes(self) -> int:
        """The memory that it has now."""
        return _status(self.pid, "VmRSS")

    def peak_bytes(self) -> int:
        """The most memory that it had since `forget_peak`, or ever."""
        return _status(self.pid, "VmHWM")

    def forget_peak(self) -> None:
        """Begin anew with `peak_bytes`."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def descriptors(self) -> Counter[str]:
        """What it has open: files by their name, the rest by its kind."""
        found: Counter[str] = Counter()
        for number in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                name = str(number.readlink())
                found[Path(name).name if name.startswith("/") else name.partition(":")[0]] += 1
        return found


def open_connections(port: int) -> int:
    """How many TCP connections to *port* of this machine have not been closed by whoever accepted them."""
    found = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                found += int(local.rpartition(":")[2], 16) == port and state in ("01", "08")
    return found


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"{pid} has no {name} any more")


def family(pid: int) -> list[Process]:
    """The processes that *pid* has started, and theirs; those that still run."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            # The name, in brackets, may hold anything; behind it: the state and the parent.
            state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(entry.name)] = int(parent)
    found: list[int] = []
    wanted = {pid}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted}
        found += sorted(wanted)
    members = []
    for child in found:
        with suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            members.append(Process(child, command))
    return members


def api_processes(pid: int) -> list[Process]:
    """Those of a server's that answer."""
    return [process for process in family(pid) if "spawn_main" in process.command]


def fetch_worker(pid: int) -> Process:
    """That of a server's that fetches."""
    (found,) = [process for process in family(pid) if "forebay worker" in process.command]
    return found


def wait_until_ended(processes: Iterable[Process], timeout_s: float = 60) -> None:
    """Return when none of them runs any more."""
    for process in processes:
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(process.pid)
            try:
                ended, _, _ = select.select([descriptor], [], [], timeout_s)
                assert ended, f"still there: {process}"
            finally:
                os.close(descriptor)
