"""What the server takes in: 1 GiB in one message, the same in 4 parts at once, and 1,000 small files.

Peers: nginx's DAV PUT, which neither hashes nor syncs; @tus/server (npm) and tuspyserver (PyPI), made to hash as
ours does, the former as the bytes pass, the latter in its hook; they do not sync. curl sends the large file to all.
Every upload is read again and compared. The large ones are each of another content, and none is removed before its
contest is over: a disk that gives a gigabyte back is slow for whoever syncs next. That takes 4 GiB of disk a round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import Contest, Run, check, need, nginx, random_file, sha256_of, warm_memory
from servers import (
    Server,
    api_memory_mib,
    forebay_server,
    peak_memory_mib,
    tus_node_modules,
    tus_node_server,
    tuspy_python,
    tuspy_server,
)

_NGINX_WANTED, _TUS_WANTED, _MEMORY_WANTED_MIB = 0.45, 2.0, 120
_PARTS = 4
_SMALL, _SMALL_BYTES, _CONNECTIONS = 1000, 10 << 10, 32


@dataclass(frozen=True, slots=True)
class Peer:
    """A tus server. *files*: where it keeps what is whole, for an upload's id and digest. *over*: what is done when
    a contest is over."""

    url: str
    files: Callable[[str, str], Path]
    over: contextlib.ExitStack

    def create(self, size: int | None, *fields: tuple[str, str]) -> str:
        """The URL of a new upload."""
        headers = {"Tus-Resumable": "1.0.0", **dict(fields)} | (
            {} if size is None else {"Upload-Length": str(size)}
        )
        ask = urllib.request.Request(self.url, b"", headers, method="POST")
        with urllib.request.urlopen(ask, timeout=600) as answer:
            return urllib.parse.urljoin(self.url, answer.headers["Location"])

    def check(self, url: str, digest: str) -> None:
        """What is kept of an upload must be what was sent. It is removed when the contest is over."""
        check(sha256_of(self.files(url.rpartition("/")[2], digest)), digest, url)
        self.over.callback(self._remove, url)

    def _remove(self, url: str) -> None:
        ask = urllib.request.Request(url, None, {"Tus-Resumable": "1.0.0"}, method="DELETE")
        with urllib.request.urlopen(ask, timeout=600):
            pass


def curl_patch(path: Path, url: str) -> list[str]:
    """curl's command that sends a file in one PATCH."""
    fields = [
        "Tus-Resumable: 1.0.0",
        "Upload-Offset: 0",
        "Content-Type: application/offset+octet-stream",
        "Expect:",
    ]
    return ["curl", "-s", "-f", "-X", "PATCH", "-T", str(path), *(f"-H{field}" for field in fields), url]


def renewed(paths: Sequence[Path]) -> str:
    """Make the content of *paths*, one after the other, another than it ever was; its digest."""
    with paths[0].open("r+b") as file:
        file.write(os.urandom(16))
    os.sync()
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                whole.update(block)
    return whole.hexdigest()


def patch(peer: Peer, path: Path) -> Run:
    """Send a file in one PATCH."""
    digest = renewed([path])
    url = peer.create(path.stat().st_size)
    began = time.perf_counter()
    subprocess.run(curl_patch(path, url), check=True)
    run = Run(time.perf_counter() - began)
    peer.check(url, digest)
    return run


def put(url: str, path: Path, root: Path, over: contextlib.ExitStack) -> Run:
    """PUT a file to nginx, which keeps it below *root*."""
    digest = renewed([path])
    began = time.perf_counter()
    subprocess.run(["curl", "-s", "-f", "-T", str(path), "-HExpect:", f"{url}/{digest}"], check=True)
    run = Run(time.perf_counter() - began)
    check(sha256_of(root / digest), digest, url)
    over.callback((root / digest).unlink)
    return run


def patch_parts(peer: Peer, paths: list[Path]) -> Run:
    """Send the parts of a file at once, and have them put together."""
    digest = renewed(paths)
    urls = [peer.create(path.stat().st_size, ("Upload-Concat", "partial")) for path in paths]
    began = time.perf_counter()
    running = [subprocess.Popen(curl_patch(path, url)) for path, url in zip(paths, urls, strict=True)]
    codes = [child.wait() for child in running]
    if any(codes):
        sys.exit("curl failed")
    final = " ".join(urllib.parse.urlsplit(url).path for url in urls)
    url = peer.create(None, ("Upload-Concat", f"final;{final}"))
    run = Run(time.perf_counter() - began)
    peer.check(url, digest)
    return run


# --- many small ones ----------------------------------------------------------------------------------


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def exchange(streams: Streams, message: bytes) -> dict[bytes, bytes]:
    """Send a message over a connection that is kept; the fields of its answer, which must be a success."""
    reader, writer = streams
    writer.write(message)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    pairs = (line.partition(b":") for line in lines[1:])
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if not lines[0].split()[1].startswith(b"2"):
        sys.exit(f"{message[:200]!r}: {head.decode('latin-1')}")
    if b"transfer-encoding" in fields:
        await reader.readuntil(b"0\r\n\r\n")
    else:
        await reader.readexactly(int(fields.get(b"content-length", 0)))
    return fields


async def send_small(peer: Peer, bodies: list[bytes]) -> list[tuple[str, bytes]]:
    """Upload *bodies*, each with a creation and a PATCH; the uploads' ids, and what was sent for each."""
    parts = urllib.parse.urlsplit(peer.url)
    common = f"Host: {parts.netloc}\r\nTus-Resumable: 1.0.0\r\n"
    creation = f"POST {parts.path} HTTP/1.1\r\n{common}Upload-Length: {_SMALL_BYTES}\r\nContent-Length: 0\r\n\r\n"
    left, sent = iter(bodies), []

    async def client() -> None:
        streams = await asyncio.open_connection(parts.hostname, parts.port)
        for body in left:
            fields = await exchange(streams, creation.encode())
            place = urllib.parse.urlsplit(fields[b"location"].decode()).path
            head = f"PATCH {place} HTTP/1.1\r\n{common}Upload-Offset: 0\r\nContent-Length: {len(body)}\r\n"
            head += "Content-Type: application/offset+octet-stream\r\n\r\n"
            await exchange(streams, head.encode() + body)
            sent.append((place.rpartition("/")[2], body))
        streams[1].close()

    await asyncio.gather(*(client() for _ in range(_CONNECTIONS)))
    return sent


def small(peer: Peer) -> Run:
    """The time for all small files."""
    bodies = [os.urandom(_SMALL_BYTES) for _ in range(_SMALL)]
    began = time.perf_counter()
    sent = asyncio.run(send_small(peer, bodies))
    run = Run(time.perf_counter() - began)
    for uid, body in sent:
        digest = hashlib.sha256(body).hexdigest()
        check(sha256_of(peer.files(uid, digest)), digest, uid)
    if len({uid for uid, _ in sent}) != _SMALL:
        sys.exit("uploads are missing")
    return run


# --- the contests -------------------------------------------------------------------------------------


def main() -> None:
    """Run the three contests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=1, help="API processes of ours; the peers have one each")
    options = parser.parse_args()
    need("nginx", "curl", "node", "npm")
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        warm_memory(folder)
        (folder / "nginx").mkdir()
        dav = running.enter_context(nginx(folder / "nginx", takes=True))
        ours = running.enter_context(forebay_server(folder / "ours", "--workers", str(options.workers)))
        node = running.enter_context(tus_node_server(folder / "node", tus_node_modules(folder / "modules")))
        tuspy = running.enter_context(tuspy_server(folder / "tuspy", tuspy_python(folder / "python")))
        large = folder / "large"
        random_file(large, options.mib << 20)
        over = running.enter_context(contextlib.ExitStack())
        tus = f"{ours.url}/v1/upload/tus/"
        peers = {
            "forebay": Peer(tus, lambda _, digest: folder / "ours" / "data" / "content" / digest, over),
            "@tus/server": Peer(node.url, lambda uid, _: folder / "node" / "data" / uid, over),
            "tuspyserver": Peer(tuspy.url, lambda uid, _: folder / "tuspy" / "data" / uid, over),
        }
        one_patch(options, peers, large, lambda: put(dav, large, folder / "nginx", over))
        over.close()
        memory(ours, {"@tus/server": node, "tuspyserver": tuspy})
        in_parts(options, peers["forebay"], large)
        over.close()
        many_small(options, peers)
        memory(ours, {"@tus/server": node, "tuspyserver": tuspy})


def one_patch(options: argparse.Namespace, peers: dict[str, Peer], path: Path, to_nginx: Callable[[], Run]) -> None:
    """The contest of one large file in one message."""
    contest = Contest(
        f"{options.mib} MiB in one PATCH, hashed; wanted: {_NGINX_WANTED} of nginx, {_TUS_WANTED} of the others",
        options.rounds,
        {name: (lambda peer=peer: patch(peer, path)) for name, peer in peers.items()}
        | {"nginx, DAV PUT, not hashed": to_nginx},
    )
    contest.run()
    others = [name for name in contest.contestants if name != "forebay"]
    contest.report(against=others, work=options.mib, unit="MiB/s")


def in_parts(options: argparse.Namespace, ours: Peer, path: Path) -> None:
    """The contest of one large file in parts."""
    paths = [path.with_name(f"part{number}") for number in range(_PARTS)]
    step = path.stat().st_size // _PARTS
    with path.open("rb") as file:
        for part in paths:
            part.write_bytes(file.read(-1 if part is paths[-1] else step))
    contest = Contest(
        f"{options.mib} MiB in {_PARTS} parts at once, put together",
        options.rounds,
        {
            f"forebay, {_PARTS} parts": lambda: patch_parts(ours, paths),
            "forebay, one PATCH": lambda: patch(ours, path),
        },
    )
    contest.run()
    contest.report(against=["forebay, one PATCH"], work=options.mib, unit="MiB/s")


def many_small(options: argparse.Namespace, peers: dict[str, Peer]) -> None:
    """The contest of many small files."""
    contest = Contest(
        f"{_SMALL:,} uploads of {_SMALL_BYTES >> 10} KiB over {_CONNECTIONS} connections, hashed; reported",
        options.rounds,
        {name: (lambda peer=peer: small(peer)) for name, peer in peers.items()},
    )
    contest.run()
    contest.report(against=[name for name in peers if name != "forebay"], work=_SMALL, unit="/s")


def memory(ours: Server, others: dict[str, Server]) -> None:
    """What the servers have taken at most so far."""
    now, most = api_memory_mib(ours)
    print(f"  memory of our API processes: {now:.1f} MiB now, {most:.1f} MiB at most; wanted: {_MEMORY_WANTED_MIB}")
    for name, server in others.items():
        print(f"  memory of {name}: {peak_memory_mib(server):.1f} MiB at most")


if __name__ == "__main__":
    main()
