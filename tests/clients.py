"""Fixtures of the tests that drive public clients."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environments import CLIENTS, node_clients, python_with


@pytest.fixture(scope="session")
def tuspy_python(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has tuspy. Skips, and says why, when there is none to be had."""
    return python_with(
        "tuspy",
        probe="import tusclient.client",
        variable="FOREBAY_TUSPY_PYTHON",
        pytestconfig=pytestconfig,
        tmp=tmp_path_factory.mktemp,
    )


@pytest.fixture(scope="session")
def clients(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the clients from npm. Skips, and says why, when there is none to be had."""
    return node_clients(pytestconfig, tmp_path_factory.mktemp)


@pytest.fixture(scope="session")
def chromium() -> str:
    """A Chromium. Skips when there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium: Uppy needs a browser")
    return found


@pytest.fixture
def node(clients: Path, spawn: Callable[..., Any]) -> Callable[..., Any]:
    """``node(script, **ask)``: a `Child` that runs a script of ``clients/`` with *ask*; what it writes to stdout is
    JSON."""
    program = shutil.which("node")
    become = "import os; os.execv(ask['node'], [ask['node'], ask['driver'], sys.argv[1]])"

    def run(script: str, **ask: Any) -> Any:
        return spawn(become, node=program, driver=CLIENTS / script, clients=clients, **ask)

    return run
