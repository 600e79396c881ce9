"""20 processes ask the server for one cold 8 MiB URL at the same moment. Beside it: one process alone.

The origin counts what it is asked, and sends at a set pace: what 20 readers share is the time that an origin takes.
Without a pace it is this machine alone that takes time, to copy 20 times 8 MiB into files; so nginx is measured
as well, with the same 20 processes and a stored file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import os
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness import Contest, Run, check, need, nginx, sha256_of
from servers import forebay_server

_SIZE = 8 << 20
_PIECE = 64 << 10
_WANTED = 1.3

# A process that runs all the time, so that only the download counts: reads URL and file, says when it is done.
_CLIENT = """
import sys, urllib.error, urllib.request
for line in sys.stdin:
    url, out = line.split()
    try:
        with urllib.request.urlopen(url) as answer, open(out, "wb", buffering=0) as file:
            buffer = memoryview(bytearray(256 << 10))
            while got := answer.readinto(buffer):
                file.write(buffer[:got])
    except urllib.error.HTTPError as error:
        print(error.read().decode(), flush=True)
    else:
        print("done", flush=True)
"""


class Origin(socketserver.ThreadingTCPServer):
    """Sends `_SIZE` bytes that differ from path to path, *rate* bytes a second on each connection (0: as fast as
    it can), and counts how often it was asked for each."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rate = 0.0
        self.asked: Counter[str] = Counter()
        self._random = os.urandom(_SIZE)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def content(self, path: str) -> bytes:
        """What it sends for *path*."""
        name = path.encode()
        return name + self._random[len(name) :]


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while line := self.rfile.readline():
                while self.rfile.readline().strip():
                    pass
                self._answer(line.split()[1].decode())

    def _answer(self, path: str) -> None:
        origin = self.server
        assert isinstance(origin, Origin)
        origin.asked[path] += 1
        body = memoryview(origin.content(path))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        began = time.perf_counter()
        for start in range(0, len(body), _PIECE):
            self.wfile.write(body[start : start + _PIECE])
            if origin.rate:
                time.sleep(max(0.0, began + (start + _PIECE) / origin.rate - time.perf_counter()))


class Herd:
    """Client processes that wait for something to download."""

    def __init__(self, folder: Path, count: int) -> None:
        self._outs = [folder / f"out{number}" for number in range(count)]
        argv = [sys.executable, "-c", _CLIENT]
        self._clients = [
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in self._outs
        ]

    def get(self, url: str, *, count: int, sha256: str) -> Run:
        """The time until the last of *count* processes has *url* in a file of its own; all are checked."""
        asked = list(zip(self._clients, self._outs, strict=True))[:count]
        began = time.perf_counter()
        for client, out in asked:
            assert client.stdin is not None
            client.stdin.write(f"{url} {out}\n")
            client.stdin.flush()
        for client, _ in asked:
            assert client.stdout is not None
            said = client.stdout.readline()
            if said != "done\n":
                sys.exit(f"a client failed: {said}")
        took = Run(time.perf_counter() - began)
        for _, out in asked:
            check(sha256_of(out), sha256, str(out))
            out.unlink()
        return took

    def close(self) -> None:
        """End them."""
        for client in self._clients:
            client.communicate()


@contextlib.contextmanager
def counting_origin() -> Iterator[Origin]:
    """An `Origin` that runs."""
    with Origin() as origin:
        threading.Thread(target=origin.serve_forever, daemon=True).start()
        yield origin
        origin.shutdown()


def main() -> None:
    """Run a contest for each pace of the origin."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--paces", type=float, nargs="*", default=[20, 100, 0], help="MB/s; 0: no pace")
    options = parser.parse_args()
    need("nginx")
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        origin = running.enter_context(counting_origin())
        server = running.enter_context(forebay_server(folder / "ours"))
        herd = Herd(folder, options.processes)
        running.callback(herd.close)
        stored = folder / "stored"
        stored.write_bytes(origin.content("/stored"))
        peer = running.enter_context(nginx(folder))
        numbers = itertools.count()

        def cold(count: int) -> Run:
            path = f"/{next(numbers)}"
            digest = hashlib.sha256(origin.content(path)).hexdigest()
            run = herd.get(f"{server.url}/r/{origin.url}{path}", count=count, sha256=digest)
            if origin.asked[path] != 1:
                sys.exit(f"the origin was asked {origin.asked[path]} times for {path}")
            return run

        def from_nginx(count: int) -> Run:
            return herd.get(f"{peer}/stored", count=count, sha256=sha256_of(stored))

        many = options.processes
        for pace in options.paces:
            origin.rate = pace * 1e6
            contestants = {"one alone": lambda: cold(1), f"{many} at once": lambda: cold(many)}
            if not pace:
                contestants |= {
                    "nginx, stored: one alone": lambda: from_nginx(1),
                    f"nginx, stored: {many} at once": lambda: from_nginx(many),
                }
            title = f"8 MiB, cold, from an origin {f'that sends {pace:g} MB/s' if pace else 'without a pace'}"
            contest = Contest(title, options.rounds, contestants)
            contest.run()
            contest.report(against=[], work=8, unit="MiB/s")
            print("  one GET at the origin for each URL, all files right")
            _compare(contest, f"{many} at once", "one alone", f" (wanted: {_WANTED})")
            if not pace:
                _compare(contest, f"nginx, stored: {many} at once", "nginx, stored: one alone", "")


def _compare(contest: Contest, ours: str, theirs: str, note: str) -> None:
    pairs = zip(contest.results[ours], contest.results[theirs], strict=True)
    ratios = [our.seconds / their.seconds for our, their in pairs]
    middle = statistics.median(ratios)
    print(f"  time of {ours} : of {theirs} = {middle:.2f}  [{min(ratios):.2f} .. {max(ratios):.2f}]{note}")


if __name__ == "__main__":
    main()
