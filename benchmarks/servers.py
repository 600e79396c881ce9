"""Servers side by side: ours, and DZDBuffy 0.7.3's with its own client, in an interpreter with pydantic 1."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_LOCK = Path(__file__).parents[1] / "tests" / "acceptance" / "dzdbuffy.lock"

# It asks its package for a version, which no current setuptools gives it; and its name of the folder is relative.
_BUFFY_SERVER = """
import sys, buffy
buffy.__version__ = "0.7.3"
from buffy.buffyserver.main import start_buffy_server
folder, port, redis_port = sys.argv[1:]
start_buffy_server(env_vars={
    "CONFIGS_STORAGE_BACKEND_FILE_DIR": folder,
    "CONFIGS_STORAGE_BACKEND_CONFIG": {"host": "127.0.0.1", "port": int(redis_port)},
    "CONFIGS_UVICORN_PARAMS": {"host": "127.0.0.1", "port": int(port), "log_level": "warning"},
    "CONFIGS_LOG_LEVEL": "WARNING",
})
"""


_TUS_NODE = ("@tus/server@2.4.5", "@tus/file-store@2.1.1")
_TUS_NODE_SERVER = """
import { createHash } from "node:crypto"
import { createServer } from "node:http"
import { Transform } from "node:stream"
import { FileStore } from "@tus/file-store"
import { Server } from "@tus/server"

const [directory, port] = process.argv.slice(2)
const hashes = new Map()

class HashingStore extends FileStore {
  write(readable, id, offset) {
    if (!hashes.has(id)) hashes.set(id, createHash("sha256"))
    const hash = hashes.get(id)
    const hashing = new Transform({ transform(chunk, _, done) { hash.update(chunk); done(null, chunk) } })
    readable.on("error", (error) => hashing.destroy(error))
    return super.write(readable.pipe(hashing), id, offset)
  }
}

const server = new Server({
  path: "/files",
  datastore: new HashingStore({ directory }),
  onUploadFinish: async (_, upload) => {
    const digest = hashes.get(upload.id).digest("hex")
    hashes.delete(upload.id)
    return { headers: { "X-SHA256": digest } }
  },
})
createServer(server.handle.bind(server)).listen(Number(port), "127.0.0.1")
"""

_TUSPY = ("tuspyserver==4.4.3", "uvicorn==0.54.0")
_TUSPY_SERVER = """
import hashlib, sys
import uvicorn
from fastapi import FastAPI
from tuspyserver import create_tus_router

def hashed(path, metadata):
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with open(f"{path}.sha256", "w") as out:
        out.write(digest)

folder, port = sys.argv[1:]
app = FastAPI()
app.include_router(create_tus_router(prefix="files", files_dir=folder, on_upload_complete=hashed))
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs: where it listens, and the processes that belong to it."""

    url: str
    pids: tuple[int, ...]

    def cpu_seconds(self) -> float:
        """CPU that it, its children and its database have used so far: of their threads that live. Linux only."""
        parents: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(FileNotFoundError, ProcessLookupError):
                # The name may hold spaces and brackets; what follows its last bracket does not.
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(stat.parent.name))
        total, left = 0, list(self.pids)
        while left:
            pid = left.pop()
            left += parents.get(pid, [])
            # In nanoseconds; times(2) has ticks of 10 ms, more than an idle server takes in a while.
            for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with suppress(FileNotFoundError, ProcessLookupError):
                    total += int(thread.read_text().split()[0])
        return total / 1e9


def api_memory_mib(server: Server) -> tuple[float, float]:
    """Resident memory of the API processes of a server of ours together: now, and at most ever."""
    now = most = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(FileNotFoundError, ProcessLookupError):
            text = status.read_text()
            parent = re.search(r"^PPid:\s+(\d+)", text, re.MULTILINE)
            if parent is None or int(parent[1]) not in server.pids:
                continue
            if b"spawn_main" in (status.parent / "cmdline").read_bytes():
                now += _kib(text, "VmRSS") / 1024
                most += _kib(text, "VmHWM") / 1024
    return now, most


def peak_memory_mib(server: Server) -> float:
    """Resident memory of a server of one process, at most ever."""
    return _kib(Path(f"/proc/{server.pids[0]}/status").read_text(), "VmHWM") / 1024


def _kib(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


def free_port() -> int:
    """A port on loopback that was free just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(argv: Sequence[str], *, port: int, log: Path, env: dict[str, str] | None = None) -> Iterator[int]:
    """A process in a group of its own, once something listens on *port*; the group is ended on leaving."""
    with log.open("wb") as out:
        child = subprocess.Popen(
            argv, stdout=out, stderr=out, start_new_session=True, env=os.environ | (env or {}), cwd=log.parent
        )
    try:
        give_up = time.monotonic() + 30
        while not _listens(port):
            if child.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"{argv} does not listen: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        yield child.pid
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                child.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def forebay_server(folder: Path, *options: str) -> Iterator[Server]:
    """``forebay serve`` with an empty data folder, which may fetch from this machine."""
    folder.mkdir()
    port = free_port()
    argv = [sys.executable, "-m", "forebay", "serve", "--port", str(port), "--data", str(folder / "data")]
    argv += ["--allow-network", "127.0.0.0/8", *options]
    with running(argv, port=port, log=folder / "log") as pid:
        yield Server(f"http://127.0.0.1:{port}", (pid,))


@contextmanager
def tus_node_server(folder: Path, modules: Path) -> Iterator[Server]:
    """@tus/server with its file store, which hashes what passes as ours does; it does not sync."""
    folder.mkdir()
    port, script = free_port(), modules / "server.mjs"
    script.write_text(_TUS_NODE_SERVER)
    argv = ["node", str(script), str(folder / "data"), str(port)]
    with running(argv, port=port, log=folder / "log") as pid:
        yield Server(f"http://127.0.0.1:{port}/files/", (pid,))


@contextmanager
def tuspy_server(folder: Path, python: str) -> Iterator[Server]:
    """tuspyserver on uvicorn, which hashes what is whole in the hook that it has for that; it does not sync."""
    folder.mkdir()
    port = free_port()
    argv = [python, "-c", _TUSPY_SERVER, str(folder / "data"), str(port)]
    with running(argv, port=port, log=folder / "log") as pid:
        yield Server(f"http://127.0.0.1:{port}/files/", (pid,))


def tus_node_modules(folder: Path) -> Path:
    """A folder with @tus/server in it: what FOREBAY_TUS_MODULES names, else *folder*, filled from npm."""
    named = os.environ.get("FOREBAY_TUS_MODULES")
    if named:
        return Path(named)
    folder.mkdir()
    subprocess.run(["npm", "install", "--silent", *_TUS_NODE], cwd=folder, check=True)
    return folder


def tuspy_python(folder: Path) -> str:
    """An interpreter with tuspyserver: what FOREBAY_TUSPY_PYTHON names, else a virtual environment that is made in
    *folder*."""
    named = os.environ.get("FOREBAY_TUSPY_PYTHON")
    if named:
        return named
    python = str(folder / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *_TUSPY], check=True)
    return python


@contextmanager
def buffy_server(folder: Path, python: str) -> Iterator[Server]:
    """DZDBuffy's server as it comes, with a redis of its own that writes nothing to disk."""
    folder.mkdir()
    port, redis_port = free_port(), free_port()
    redis = ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    argv = [python, "-c", _BUFFY_SERVER, str(folder / "data"), str(port), str(redis_port)]
    with (
        running(redis, port=redis_port, log=folder / "redis.log") as redis_pid,
        running(argv, port=port, log=folder / "log") as pid,
    ):
        yield Server(f"http://127.0.0.1:{port}", (pid, redis_pid))


def buffy_python(folder: Path) -> str:
    """An interpreter with DZDBuffy 0.7.3: what FOREBAY_BUFFY_PYTHON names, else a virtual environment that is
    made in *folder*."""
    named = os.environ.get("FOREBAY_BUFFY_PYTHON")
    if named:
        return named
    python = str(folder / "bin" / "python")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(_LOCK)]
    subprocess.run(pip, check=True)
    return python


def api(server: Server, method: str, path: str, body: object = None) -> tuple[int, dict[str, object] | None]:
    """One exchange with either server's API: status and JSON."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    ask = urllib.request.Request(f"{server.url}/v1/{path}", data, headers, method=method)
    with urllib.request.urlopen(ask, timeout=60) as answer:
        text = answer.read()
        return answer.status, json.loads(text) if text else None
