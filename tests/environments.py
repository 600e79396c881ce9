"""Public clients in environments of their own: made once from their lock files, and kept in pytest's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ACCEPTANCE = Path(__file__).parent / "acceptance"
CLIENTS = ACCEPTANCE / "clients"


def python_with(
    name: str, *, probe: str, variable: str, pytestconfig: pytest.Config, tmp: Callable[[str], Path]
) -> str:
    """An interpreter that has what ``{name}.lock`` lists, in which *probe* runs; *variable* may name one that is
    there already. Skips, and says why, when there is none to be had. *tmp* makes a folder without pytest's cache."""
    named = os.environ.get(variable)
    if named:
        subprocess.run([named, "-c", probe], check=True)
        return named
    lock = ACCEPTANCE / f"{name}.lock"
    folder = _kept(name, lock.read_bytes() + sys.version.encode(), pytestconfig, tmp)
    python = str(folder / "bin" / "python")
    with _alone(folder):
        if Path(python).exists() and subprocess.run([python, "-c", probe], capture_output=True).returncode == 0:
            return python
        _make(name, [sys.executable, "-m", "venv", "--clear", str(folder)])
        _make(name, [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock)])
    return python


def node_clients(pytestconfig: pytest.Config, tmp: Callable[[str], Path]) -> Path:
    """A folder with what ``clients/package-lock.json`` lists below ``node_modules``; FOREBAY_NODE_CLIENTS may name
    one that is there already. Skips, and says why, when there is none to be had."""
    named = os.environ.get("FOREBAY_NODE_CLIENTS")
    if named:
        return Path(named)
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: the upload clients of npm cannot run")
    lock = CLIENTS / "package-lock.json"
    folder = _kept("node-clients", lock.read_bytes(), pytestconfig, tmp)
    with _alone(folder):
        if not (folder / "done").exists():
            for file in ("package.json", "package-lock.json"):
                shutil.copy(CLIENTS / file, folder)
            quietly = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            _make("node clients", ["npm", "ci", *quietly, "--prefix", str(folder)])
            (folder / "done").touch()
    return folder


def _kept(name: str, key: bytes, pytestconfig: pytest.Config, tmp: Callable[[str], Path]) -> Path:
    cache = getattr(pytestconfig, "cache", None)  # absent under -p no:cacheprovider
    digest = hashlib.sha256(key).hexdigest()[:12]
    return tmp(name) if cache is None else Path(cache.mkdir(f"{name}-{digest}"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps the other processes of a test run from making the same folder."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(name: str, argv: Sequence[str]) -> None:
    made = subprocess.run(argv, capture_output=True, text=True, errors="replace")
    if made.returncode != 0:
        pytest.skip(f"no {name}: {' '.join(argv)} failed: {(made.stdout + made.stderr).strip()[-500:]}")
