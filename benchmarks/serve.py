"""What the server delivers of what is stored: 1 KiB, 64 KiB and 1 GiB, on one core. Peer: nginx with sendfile.

Both servers run on one core, the load on another: wrk for requests per second, for 1 GiB a reader that counts
the bytes and discards them. The door (``/r/<url>``) is shown beside the version's own URL.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from harness import Contest, Run, check, need, nginx, process, random_file, sha256_of
from servers import Server, api, api_memory_mib, forebay_server

SERVERS_CORE, LOAD_CORE = 0, 1
# What a run of wrk is counted in: the time for so many.
REQUESTS = 100_000
_SIZES = {"1 KiB": (1 << 10, 0.30), "64 KiB": (64 << 10, 0.35)}
_LARGE_WANTED = 0.40


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Processes that are started within run on *core* alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def wrk(url: str, *, seconds: int, connections: int) -> Run:
    """The time for `REQUESTS` requests, at the rate of a run; every answer must be a success."""
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url]
    with on_core(LOAD_CORE):
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    rate = re.search(r"Requests/sec:\s+([0-9.]+)", said)
    if rate is None or "Socket errors" in said or "Non-2xx" in said:
        sys.exit(f"wrk on {url}: {said}")
    return Run(REQUESTS / float(rate[1]))


def discard(url: str, size: int) -> Run:
    """The time to receive *size* bytes of content and to discard them: in the kernel, for a copy into this process
    would take the same time for both, and hide what the server takes."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    with on_core(LOAD_CORE), socket.create_connection((parts.hostname, parts.port or 80)) as connection:
        began = time.perf_counter()
        connection.sendall(f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1 << 16)
        fields, _, body = head.partition(b"\r\n\r\n")
        if not fields.startswith(b"HTTP/1.1 200 ") or f"content-length: {size}".encode() not in fields.lower():
            sys.exit(f"{url}: {fields.decode('latin-1')}")
        got, room = len(body), bytearray(1 << 20)
        while got < size:
            more = connection.recv_into(room, 0, socket.MSG_TRUNC)
            if not more:
                sys.exit(f"{url}: it ended after {got} bytes")
            got += more
        return Run(time.perf_counter() - began)


class Stored:
    """One content at both servers."""

    def __init__(self, server: Server, origin: str, path: Path, size: int) -> None:
        self.digest = random_file(path, size)
        self.nginx = f"{origin}/{path.name}"
        self.door = f"{server.url}/r/{self.nginx}"
        _, request = api(server, "PUT", "request/", {"url": self.nginx})
        self._check(self.door, path)  # and fetch it
        assert request is not None
        _, response = api(server, "GET", f"request/{request['id']}/response/latest?status=ready")
        assert response is not None
        self.version = f"{server.url}/v1/{response['content_download_path']}"
        self._check(self.version, path)
        self._check(self.nginx, path)

    def _check(self, url: str, path: Path) -> None:
        out = path.with_suffix(".out")
        process(["curl", "-s", "-f", "-o", str(out), url])
        check(sha256_of(out), self.digest, url)
        out.unlink()


def main() -> None:
    """Run the three contests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=2, help="how long wrk runs")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--mib", type=int, default=1024)
    options = parser.parse_args()
    need("nginx", "curl", "wrk")
    if os.cpu_count() == 1:
        sys.exit("it takes two cores: one for the server, one for the load")
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        with on_core(SERVERS_CORE):
            origin = running.enter_context(nginx(folder))
            server = running.enter_context(forebay_server(folder / "ours", "--workers", "1"))
        for title, (size, wanted) in _SIZES.items():
            stored = Stored(server, origin, folder / str(size), size)
            urls = {"forebay, a version": stored.version, "forebay, the door": stored.door, "nginx": stored.nginx}

            def load(url: str) -> Run:
                return wrk(url, seconds=options.seconds, connections=options.connections)

            contest = Contest(
                f"{title} over {options.connections} connections, {REQUESTS:,} requests; wanted: {wanted:.2f}",
                options.rounds,
                {name: (lambda url=url: load(url)) for name, url in urls.items()},
            )
            contest.run()
            contest.report(against=["nginx"], work=REQUESTS, unit="/s")
        large(server, origin, folder, options.rounds, options.mib)


def large(server: Server, origin: str, folder: Path, rounds: int, mib: int) -> None:
    """The contest of one large content, and what it leaves in the server's memory."""
    size = mib << 20
    stored = Stored(server, origin, folder / "large", size)
    contest = Contest(
        f"{mib} MiB to a reader that discards; wanted: {_LARGE_WANTED:.2f}",
        rounds,
        {
            "forebay, a version": lambda: discard(stored.version, size),
            "nginx": lambda: discard(stored.nginx, size),
        },
    )
    before, _ = api_memory_mib(server)
    contest.run()
    after, most = api_memory_mib(server)
    contest.report(against=["nginx"], work=mib, unit="MiB/s")
    print(f"  memory of the API process: {before:.1f} MiB before, {after:.1f} MiB after, {most:.1f} MiB at most")


if __name__ == "__main__":
    main()
