"""Several servers, and the command line, on one folder: each gives what another has fetched, nothing is fetched
twice, and whoever is killed leaves the others at work.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from origin import Held, Origin, Resource, Stall, blob
from processes import PROC, family, fetch_worker, wait_until_ended
from raw import Api, dial

pytestmark = [pytest.mark.faults, PROC]

Serve = Callable[..., Any]
MIB = 1 << 20


@pytest.fixture
def two(serve: Serve) -> tuple[Any, Any]:
    """Two servers on one folder."""
    env = {"FOREBAY_MAX_DOWNLOADS_PER_HOST": "16"}
    return serve(env=env), serve(env=env)


def in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """What each of *calls* gives, all called at once."""
    given: dict[int, Any] = {}

    def run(number: int) -> None:
        given[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return [given.get(number) for number in range(len(calls))]


def fetching(folder: Path) -> dict[str, int]:
    """Which process fetches, by URL."""
    with closing(sqlite3.connect(folder / "catalog.sqlite")) as db:
        found = db.execute(
            "SELECT url, owner FROM leases JOIN requests ON requests.id = leases.request_id"
        ).fetchall()
    return {url: int(owner.split("-")[0]) for url, owner in found}


def test_each_gives_what_the_other_has(two: tuple[Any, Any], origin: Origin) -> None:
    """What one has fetched, tagged, pinned or removed is so at the other in the same moment, also where that has
    its answers ready."""
    one, other = Api(two[0]), Api(two[1])
    resource = origin.serve("/f", Resource(b"first", etag='"1"'))
    target = one.store(origin.url("/f"))
    version = target.removesuffix("/content")
    for _ in range(3):
        assert other.get(target).body == other.get(f"/r/{origin.url('/f')}").body == b"first"
    assert one.json("PUT", f"{version}/tag", {"value": "good"})["tags"] == ["good"]
    assert other.get(f"/r/{origin.url('/f')}?forebay-tag=good").body == b"first"
    assert one.json("PUT", f"{version}/pin", {"value": True})["pinned"]
    assert other.json("GET", version)["pinned"]
    resource.change(b"second", etag='"2"')
    request = version.partition("/response")[0]
    other.json("POST", f"{request}/fetch", {"refresh": "always", "wait_sec": 30})
    for api in (one, other):
        assert api.get(f"/r/{origin.url('/f')}").body == b"second"
    assert len(origin.requests("/f")) == 2
    other.json("PUT", f"{version}/pin", {"value": False})
    other.json("DELETE", version)
    assert one.get(target).status == 404
    assert one.get(f"/r/{origin.url('/f')}").body == b"second"


def test_one_url_asked_of_both_at_once(two: tuple[Any, Any], origin: Origin) -> None:
    """Twenty clients at each: the origin sees one GET, all have the same version."""
    body = blob(3 * MIB)
    held = origin.serve("/f", Held(Resource(body)))
    target = f"/r/{origin.url('/f')}"
    threading.Thread(target=lambda: (held.arrived(timeout=60), held.release()), daemon=True).start()
    answers = in_threads([partial(Api(two[number % 2]).get, target) for number in range(40)])
    assert {answer.status for answer in answers} == {200}
    assert all(answer.body == body for answer in answers)
    assert len({answer.fields["etag"] for answer in answers}) == 1
    assert len(origin.requests("/f")) == 1


def test_the_one_that_is_killed_is_taken_over_from(two: tuple[Any, Any], origin: Origin) -> None:
    """Ten fetches, some by each server, all read at both. When one server is killed, the readers of the other one
    get every byte without a break, also of what the dead one was fetching, which goes on where it was."""
    go_on = threading.Event()
    bodies = {f"/{number}": blob(3 * MIB, number) for number in range(10)}
    for path, body in bodies.items():
        origin.serve(path, Stall(Resource(body), 2 * MIB, go_on, times=1))
    first, second = two
    for number, path in enumerate(bodies):
        # Whoever is asked first fetches it, most of the time.
        with dial(two[number % 2].url, "GET", f"/r/{origin.url(path)}") as answer:
            answer.read(2 * MIB)
    pids = {served: fetch_worker(served.process.pid).pid for served in two}
    who = fetching(first.folder)
    assert set(who.values()) <= set(pids.values())
    killed, left = (first, second) if pids[first] in who.values() else (second, first)
    readers = {path: dial(left.url, "GET", f"/r/{origin.url(path)}") for path in bodies}
    for answer in readers.values():
        assert answer.status == 200
    members = family(killed.process.pid)
    os.killpg(killed.process.pid, signal.SIGKILL)
    wait_until_ended(members)
    go_on.set()
    for path, answer in readers.items():
        with answer:
            assert answer.rest() == bodies[path], path
        ranges = [seen.fields.get("range") for seen in origin.requests(path)]
        assert ranges == ([None, f"bytes={2 * MIB}-"] if who[origin.url(path)] == pids[killed] else [None])
    origin.serve("/new", Resource(b"new"))
    assert Api(left).get(f"/r/{origin.url('/new')}").body == b"new"
    assert left.stop() == 0


def get(folder: Path, url: str, to: Path) -> "subprocess.Popen[str]":
    """`forebay get`."""
    argv = [sys.executable, "-m", "forebay", "get", url, "-o", str(to), "--data", str(folder), "--json"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("FOREBAY_")}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)


def finished(command: "subprocess.Popen[str]") -> dict[str, Any]:
    """What it says when it ends well."""
    out, err = command.communicate(timeout=120)
    assert command.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_command_line_beside_a_server(serve: Serve, origin: Origin, tmp_path: Path) -> None:
    """`forebay get` on the folder of a server waits for what that fetches, has at once what it has fetched, and
    brings what it gives then; nothing is fetched twice."""
    served = serve()
    api = Api(served)
    body = blob(3 * MIB)
    stall = origin.serve("/server", Stall(Resource(body), MIB, threading.Event()))
    with dial(served.url, "GET", f"/r/{origin.url('/server')}") as reader:
        assert reader.read(MIB) == body[:MIB]
        command = get(served.folder, origin.url("/server"), tmp_path / "copy")
        stall.event.set()
        said = finished(command)
        assert reader.rest() == body[MIB:]
    assert (tmp_path / "copy").read_bytes() == body
    assert reader.fields["etag"].startswith(f'"{said["version"]}.')
    assert finished(get(served.folder, origin.url("/server"), tmp_path / "again"))["version"] == said["version"]

    stall = origin.serve("/command", Stall(Resource(body), MIB, threading.Event()))
    command = get(served.folder, origin.url("/command"), tmp_path / "other")
    assert stall.reached.wait(60)
    with dial(served.url, "GET", f"/r/{origin.url('/command')}") as reader:
        assert reader.read(MIB) == body[:MIB]
        stall.event.set()
        assert reader.rest() == body[MIB:]
    assert finished(command)["version"] == reader.fields["etag"].strip('"').partition(".")[0]
    assert api.get(f"/r/{origin.url('/command')}").body == (tmp_path / "other").read_bytes() == body
    assert len(origin.requests()) == 2
    assert served.stop() == 0
