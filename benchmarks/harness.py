"""What every benchmark shares: an nginx origin, peers as whole processes, rounds, ratios and checked bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one contestant: seconds of wall time, and the process's peak memory if it was one."""

    seconds: float
    peak_mib: float | None = None


@dataclass(slots=True)
class Contest:
    """Contestants that do the same work, each round in turn, so that a drifting machine hurts all alike."""

    title: str
    rounds: int
    contestants: dict[str, Callable[[], Run]]
    results: dict[str, list[Run]] = field(default_factory=dict)

    def run(self) -> None:
        """One uncounted round, then the counted ones."""
        for number in range(self.rounds + 1):
            for name, call in self.contestants.items():
                os.sync()  # what the one before left to be written is not this one's work
                result = call()
                if number:
                    self.results.setdefault(name, []).append(result)

    def report(self, *, against: Sequence[str], work: float, unit: str) -> None:
        """A row a contestant: median, spread, rate, and the ratio of rates to each of *against*, round by
        round. *work* units are done in each run."""
        print(f"\n{self.title} ({self.rounds} rounds, interleaved)")
        for name, runs in self.results.items():
            seconds = [run.seconds for run in runs]
            middle = statistics.median(seconds)
            peaks = [run.peak_mib for run in runs if run.peak_mib is not None]
            memory = f"  peak {max(peaks):6.1f} MiB" if peaks else ""
            print(
                f"  {name:34} {middle:8.3f} s  [{min(seconds):.3f} .. {max(seconds):.3f}]"
                f"  {work / middle:10,.1f} {unit}{memory}"
            )
        for peer in against:
            for name in self.results:
                if name not in against and peer in self.results:
                    ratios = [
                        theirs.seconds / ours.seconds
                        for ours, theirs in zip(self.results[name], self.results[peer], strict=True)
                    ]
                    print(
                        f"  {name} : {peer} = {statistics.median(ratios):.2f}"
                        f"  [{min(ratios):.2f} .. {max(ratios):.2f}]"
                    )


def process(argv: Sequence[str], *, stdin: bytes = b"") -> Run:
    """Run a whole process; it must succeed."""
    began = time.perf_counter()
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stderr is not None
    child.stdin.write(stdin)
    child.stdin.close()
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stderr.close()
    if child.returncode != 0:
        raise RuntimeError(f"{argv[0]} ended with {child.returncode}: {said.decode(errors='replace')[-500:]}")
    return Run(time.perf_counter() - began, usage.ru_maxrss / 1024)


def python(script: str, *arguments: str) -> Run:
    """Run a Python script that prints the seconds that count; its peak memory is the whole process's."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=out)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            raise RuntimeError(f"the script ended with {child.returncode}")
        out.seek(0)
        return Run(float(out.read().split()[-1]), usage.ru_maxrss / 1024)


def need(*programs: str) -> None:
    """Stop with a sentence when a peer is missing: a comparison without it would say nothing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        sys.exit(
            f"missing: {', '.join(missing)} (on Debian: apt-get install nginx-light curl aria2 wrk redis-server)"
        )


@contextmanager
def nginx(root: Path, *, hosts: Sequence[str] = ("127.0.0.1",), takes: bool = False) -> Iterator[str]:
    """nginx with sendfile on loopback, serving *root* on one port of all *hosts*; gives the first one's URL. If it
    *takes*, files are put there as well, with its DAV module, which Debian's nginx-light has."""
    need("nginx")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    listen = " ".join(f"listen {host}:{port};" for host in hosts)
    if takes:  # the temporary file beside its place: then it is renamed, not copied
        (root / "coming").mkdir()
        listen += f" dav_methods PUT; client_max_body_size 0; client_body_temp_path {root}/coming;"
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(
            f"""daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
            events {{ worker_connections 1024; }}
            http {{ access_log off; default_type application/octet-stream;
                    sendfile on; tcp_nopush on; keepalive_requests 1000000;
                    server {{ {listen} root {root}; }} }}"""
        )
        server = subprocess.Popen(["nginx", "-c", str(config)], stderr=subprocess.DEVNULL)
        try:
            _await_port(port)
            yield f"http://{hosts[0]}:{port}"
        finally:
            server.terminate()
            server.wait()


def _await_port(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise RuntimeError("nginx does not listen")


def warm_memory(folder: Path) -> None:
    """Fill the page cache, as it is on a machine that has been up for a while.

    A fresh virtual machine gets each page of its memory from its host when it first touches it: here 2 s a GiB,
    more than any contestant needs for the same GiB, so that all of them take equally long and the ratios say
    nothing. The cache of a file without blocks costs no disk, and is given up for whatever is written next; the
    file stays in *folder*, for its pages would go back to the host with it."""
    try:
        known = Path("/proc/meminfo").read_text()
    except FileNotFoundError:
        return  # not Linux
    free_kib = int(known.partition("MemFree:")[2].split()[0])
    hole = folder / "hole"
    with hole.open("wb") as file:
        file.truncate(free_kib * 1024)
    with hole.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def random_file(path: Path, size: int) -> str:
    """Write *size* random bytes to *path*; their SHA-256 in hex."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        while size > 0:
            piece = os.urandom(min(size, 1 << 20))
            digest.update(piece)
            file.write(piece)
            size -= len(piece)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(found: str, expected: str, what: str) -> None:
    """Stop when bytes are wrong: a fast wrong answer is no result."""
    if found != expected:
        sys.exit(f"{what}: the bytes are wrong")
