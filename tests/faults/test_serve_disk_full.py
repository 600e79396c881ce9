"""A server whose disk is full: what cannot be kept is refused as such (507), what is stored is served as ever, and
with space again it goes on by itself.
"""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disks import SmallDisk, on_a_small_disk
from origin import Held, Origin, Resource, Stall, blob
from raw import Api, Cut, problem

pytestmark = pytest.mark.faults

Serve = Callable[..., Any]
MIB = 1 << 20
FULL = (507, "disk_full")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the disk is."""
    disk = tmp_path / "disk"
    disk.mkdir()
    return disk


@pytest.fixture
def small(serve: Serve, place: Path) -> tuple[Any, SmallDisk]:
    """A server on a disk of 12 MiB, and that disk."""
    served = serve(folder=place / "data", under=on_a_small_disk(place, size_mib=12))
    return served, SmallDisk(served.process.pid, place)


def verify(served: Any) -> None:
    """Nothing that is stored is damaged."""
    part: dict[str, Any] = {"next": None}
    while True:
        part = Api(served).json("POST", "/v1/storage/verify", {"after": part["next"], "for_sec": 10})
        assert part["report"]["rotten"] == []
        if part["next"] is None:
            return


def test_what_does_not_fit_is_refused(small: tuple[Any, SmallDisk], origin: Origin) -> None:
    """Whoever reads it while it lands is broken off, whoever asks then is told; what is stored stays, and when there
    is space the fetch goes on where it was."""
    served, disk = small
    api = Api(served)
    stored, large = blob(MIB, 1), blob(5 * MIB, 2)
    origin.serve("/stored", Resource(stored))
    target = api.store(origin.url("/stored"))
    held = origin.serve("/large", Held(Resource(large)))
    disk.fill(leave=3_000_000)
    made = api.json("PUT", "/v1/request/", {"url": origin.url("/large")})
    held.arrived()
    with pytest.raises(Cut) as cut:
        held.release()
        with api.dial("GET", f"/r/{origin.url('/large')}") as answer:
            assert problem(answer.whole()) == FULL  # it was too late to see it land
            raise Cut("so it was")
    assert large.startswith(cut.value.body)
    assert problem(api.send("POST", f"/v1/request/{made['id']}/fetch", {"wait_sec": 30})) == FULL
    assert problem(api.get(f"/r/{origin.url('/large')}")) == FULL
    latest = api.json("GET", f"/v1/request/{made['id']}/response/latest")
    assert (latest["status"], latest["download_stats"]["error_code"]) == ("failed", "disk_full")
    assert api.get(target).body == api.get(f"/r/{origin.url('/stored')}").body == stored
    verify(served)
    disk.free()
    assert api.get(f"/r/{origin.url('/large')}").body == large
    assert any(seen.fields.get("range", "").startswith("bytes=") for seen in origin.requests("/large"))
    assert len(origin.requests("/stored")) == 1
    verify(served)
    assert served.stop() == 0


def test_a_disk_that_is_full_to_the_last_byte(small: tuple[Any, SmallDisk], origin: Origin) -> None:
    """Nothing can be written, so whatever would be is refused; a hit writes nothing, and is served. The server lives,
    and with space again everything works, without being started anew."""
    served, disk = small
    api = Api(served)
    stored = blob(100_000, 1)
    origin.serve("/stored", Resource(stored))
    origin.serve("/new", Resource(b"new"))
    target = api.store(origin.url("/stored"))
    version = target.removesuffix("/content")
    request = version.partition("/response")[0]
    disk.fill()
    refused = [
        api.get(f"/r/{origin.url('/new')}"),
        api.send("PUT", "/v1/request/", {"url": origin.url("/new")}),
        api.send("POST", "/v1/fetch", {"request": {"url": origin.url("/new")}, "wait_sec": 30}),
        api.send("PUT", f"{request}/cache-config", {"max_cached_unpinned_versions": 5}),
        api.send("PUT", f"{version}/tag", {"value": "good"}),
        api.send("PUT", f"{version}/pin", {"value": True}),
    ]
    assert [problem(answer) for answer in refused] == [FULL] * len(refused)
    for _ in range(3):
        assert api.get(target).body == api.get(f"/r/{origin.url('/stored')}").body == stored
        assert api.ask("HEAD", target).status == 200
        assert api.get(target, ("Range", "bytes=-5")).body == stored[-5:]
    assert api.json("GET", version)["status"] == "ready"
    assert api.json("GET", "/v1/request/")
    assert api.get("/healthz").status == api.get("/readyz").status == 200
    assert str(served.folder) not in "".join(str(answer.body) for answer in refused)
    disk.free()
    assert api.get(f"/r/{origin.url('/new')}").body == b"new"
    assert api.json("PUT", f"{version}/tag", {"value": "good"})["tags"] == ["good"]
    verify(served)
    assert "Traceback" not in served.stderr()
    assert served.stop() == 0


def test_a_fetch_whose_end_cannot_be_written(small: tuple[Any, SmallDisk], origin: Origin) -> None:
    """Its bytes have landed, but there is no space to say so: who waits for the end does not get it, and does when
    there is, without anybody having asked for anything else. The origin sends no byte twice."""
    served, disk = small
    api = Api(served)
    body = blob(100_000)
    resource = Resource(body)
    stall = origin.serve("/f", Stall(resource, len(body) - 10, threading.Event(), times=1))
    with api.dial("GET", f"/r/{origin.url('/f')}") as reader:
        assert reader.read(len(body) - 10) == body[:-10]
        disk.fill()
        stall.event.set()
        assert reader.read(9) == body[-10:-1]
        # The error is told once; what comes after it would say so again.
        while "disk_full" not in served.stderr():
            assert problem(api.send("POST", "/v1/fetch", {"request": {"url": origin.url("/g")}})) == FULL
        disk.free()
        assert reader.rest() == body[-1:]
    assert api.get(f"/r/{origin.url('/f')}").body == body
    assert resource.bytes_sent == len(body)
    assert len(origin.requests("/f")) == 2  # the second one only asks whether it is still so
    verify(served)
    assert served.stop() == 0


def test_a_server_that_is_started_on_a_full_disk(serve: Serve, place: Path) -> None:
    """It says so, with an exit code of its own, and leaves nothing; or it serves what is stored."""
    fill = 'cat /dev/zero > "$0"/ballast 2>/dev/null; exec "$@"'
    under = [*on_a_small_disk(place, size_mib=4), "sh", "-c", fill, str(place)]
    served = serve(folder=place / "data", under=under, wait=False)
    assert served.process.wait(60) == 2
    assert "Free space" in served.stderr()
    assert "Traceback" not in served.stderr()


def test_a_fetch_worker_needs_space_as_well(place: Path) -> None:
    """Alone, on a full disk: one sentence, and the same exit code."""
    fill = 'cat /dev/zero > "$0"/ballast 2>/dev/null; exec "$@"'
    under = [*on_a_small_disk(place, size_mib=4), "sh", "-c", fill, str(place)]
    argv = [*under, sys.executable, "-m", "forebay", "worker", "--data", str(place / "data")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Free space" in done.stderr
    assert "Traceback" not in done.stderr
