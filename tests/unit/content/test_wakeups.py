"""Wake-ups: who watches is woken, in any process; nobody waits for anybody, nothing is left behind."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forebay.content.wakeups import Wakeups
from forebay.fetch.owner import Owner

KEY = "0123456789abcdef0123456789abcdef"


class Bell:
    """A call that can be waited for."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def wait(self, count: int = 1) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.count >= count, 30), f"{self.count} of {count} calls came"


def wakeups_of(folder: Path, owner: str = "me") -> Wakeups:
    """Those of *owner*, who finds only itself alive."""
    return Wakeups(folder, owner=owner, is_alive=owner.__eq__)


@pytest.fixture
def homes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder in which this test's sockets are; a short one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as home:
        monkeypatch.setattr(tempfile, "tempdir", home)
        yield Path(home)


@pytest.fixture
def wakeups(tmp_path: Path, homes: Path) -> Iterator[Wakeups]:
    board = wakeups_of(tmp_path / "wakeups")
    yield board
    board.close()
    assert list(homes.iterdir()) == []


def links(tmp_path: Path) -> list[str]:
    """The keys that have watchers, once for each process."""
    return sorted(path.parent.name for path in (tmp_path / "wakeups").glob("*/*"))


def test_who_watches_is_woken(wakeups: Wakeups) -> None:
    """Each time, and only for its key."""
    bell, other = Bell(), Bell()
    wakeups.watch(KEY, bell)
    wakeups.watch("other", other)
    wakeups.ring(KEY)
    bell.wait(1)
    wakeups.ring(KEY)
    bell.wait(2)
    wakeups.ring("other")
    other.wait(1)
    assert (bell.count, other.count) == (2, 1)


def test_a_ring_for_nobody_is_nothing(wakeups: Wakeups, tmp_path: Path) -> None:
    """No thread, no socket, no folder."""
    wakeups.ring(KEY)
    assert not (tmp_path / "wakeups").exists()


def test_several_watch_one_key(wakeups: Wakeups, tmp_path: Path) -> None:
    """All are woken by one ring; who has closed is not, and the last one takes the link away."""
    bells = [Bell() for _ in range(3)]
    watches = [wakeups.watch(KEY, bell) for bell in bells]
    assert links(tmp_path) == [KEY]
    wakeups.ring(KEY)
    for bell in bells:
        bell.wait()
    watches[0].close()
    watches[0].close()
    wakeups.ring(KEY)
    for bell in bells[1:]:
        bell.wait(2)
    assert bells[0].count == 1
    for watch in watches:
        watch.close()
    assert list((tmp_path / "wakeups").iterdir()) == []


def test_a_call_may_close_its_own_watch_and_begin_another(wakeups: Wakeups) -> None:
    """Whatever a call does to the watches, it does not stand in its own way."""
    later = Bell()

    def once() -> None:
        watch.close()
        wakeups.watch("later", later)
        wakeups.ring("later")

    watch = wakeups.watch(KEY, once)
    wakeups.ring(KEY)
    later.wait()


def test_a_call_that_fails_keeps_nobody_waiting(wakeups: Wakeups, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged; others are called, now and later."""
    bell = Bell()

    def failing() -> None:
        raise ValueError("no")

    wakeups.watch(KEY, failing)
    wakeups.watch(KEY, bell)
    for count in (1, 2):
        wakeups.ring(KEY)
        bell.wait(count)
    assert "a wake-up call failed" in caplog.text


def test_closing_leaves_nothing(tmp_path: Path, homes: Path) -> None:
    """No link, no socket, no thread; from then on watching and ringing do nothing."""
    board = wakeups_of(tmp_path / "wakeups")
    bell = Bell()
    watch = board.watch(KEY, bell)
    board.close()
    board.close()
    watch.close()
    board.watch(KEY, bell).close()
    board.ring(KEY)
    assert list((tmp_path / "wakeups").iterdir()) == []
    assert list(homes.iterdir()) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "forebay-wakeups"]


def test_closing_from_a_call(tmp_path: Path, homes: Path) -> None:
    """The thread of the calls may be the one that closes."""
    board = wakeups_of(tmp_path / "wakeups")
    closed = Bell()

    def close() -> None:
        board.close()
        closed()

    board.watch(KEY, close)
    board.ring(KEY)
    closed.wait()
    assert list(homes.iterdir()) == []


def test_a_folder_that_is_far_too_deep_for_a_socket(tmp_path: Path, homes: Path) -> None:
    """The data folder may have any path: its sockets are elsewhere."""
    deep = tmp_path.joinpath(*["a-folder-with-a-long-name" * 4] * 5)
    deep.mkdir(parents=True)
    assert len(str(deep)) > 500
    board, other, bell = wakeups_of(deep / "wakeups"), wakeups_of(deep / "wakeups", "other"), Bell()
    board.watch(KEY, bell)
    other.ring(KEY)
    bell.wait()
    board.close()
    other.close()


def test_a_temporary_folder_that_is_too_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then /tmp is used."""
    deep = tmp_path / ("t" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    board, bell = wakeups_of(tmp_path / "wakeups"), Bell()
    board.watch(KEY, bell)
    board.ring(KEY)
    bell.wait()
    board.close()
    assert list(deep.iterdir()) == []


def test_without_a_socket_there_are_no_calls_and_no_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever waits looks now and then all the same; it is said once."""

    def refused(**_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    board, bell = wakeups_of(tmp_path / "wakeups"), Bell()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            board.watch(KEY, bell).close()
    board.ring(KEY)
    board.close()
    assert bell.count == 0
    assert len(caplog.records) == 1


def test_thousands_of_keys(wakeups: Wakeups, tmp_path: Path) -> None:
    """All are rung at once, faster than they are received: each is called, though a buffer holds few."""
    bells = {f"{number:032x}": Bell() for number in range(3000)}
    watches = [wakeups.watch(key, bell) for key, bell in bells.items()]
    for key in bells:
        wakeups.ring(key)
    for bell in bells.values():
        bell.wait()
    for watch in watches:
        watch.close()
    assert links(tmp_path) == []


def test_a_full_buffer_loses_no_wake_up(wakeups: Wakeups) -> None:
    """While a call takes its time, more rings come than the buffer holds: who was rung is woken afterwards."""
    began, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        go_on.wait(30)

    wakeups.watch("slow", slow)
    late = Bell()
    wakeups.watch("late", late)
    wakeups.ring("slow")
    assert began.wait(30)
    for number in range(2000):
        wakeups.ring("slow" if number % 2 else "nobody")
    wakeups.ring("late")
    go_on.set()
    late.wait()


WATCH = """
import threading
from pathlib import Path
from forebay.content.wakeups import Wakeups
board = Wakeups(Path(ask["folder"]), owner="child", is_alive=lambda _: False)
board.watch(ask["key"], lambda: say(woken=True))
say(ready=True)
sys.stdin.readline()
board.close()
"""


def test_another_process_is_woken(wakeups: Wakeups, tmp_path: Path, homes: Path, spawn: Callable[..., Any]) -> None:
    """And leaves nothing when it closes."""
    child = spawn(WATCH, folder=tmp_path / "wakeups", key=KEY, env={"TMPDIR": str(homes)})
    child.wait_for(bool)
    wakeups.ring(KEY)
    child.wait_for(lambda said: {"woken": True} in said)
    child.tell(stop=True)
    child.result()
    assert links(tmp_path) == []


@pytest.mark.parametrize("how", ["ring", "sweep"])
def test_a_killed_watcher_is_forgotten(
    wakeups: Wakeups, tmp_path: Path, homes: Path, spawn: Callable[..., Any], how: str
) -> None:
    """Its link, its socket and its folder go with the next ring of its key, or with the sweep; others stay."""
    bell = Bell()
    wakeups.watch("mine", bell)
    child = spawn(WATCH, folder=tmp_path / "wakeups", key=KEY, env={"TMPDIR": str(homes)})
    child.wait_for(bool)
    child.kill()
    assert links(tmp_path) == sorted([KEY, "mine"])
    assert len(list(homes.iterdir())) == 2
    if how == "ring":
        wakeups.ring(KEY)
    else:
        wakeups.sweep()
    assert links(tmp_path) == ["mine"]
    assert len(list(homes.iterdir())) == 1
    wakeups.ring("mine")
    bell.wait()


def test_what_a_killed_watcher_of_another_folder_left_goes_too(
    wakeups: Wakeups, tmp_path: Path, homes: Path, spawn: Callable[..., Any]
) -> None:
    """With the next one that watches anything; what is no socket of ours stays."""
    child = spawn(WATCH, folder=tmp_path / "elsewhere", key=KEY, env={"TMPDIR": str(homes)})
    child.wait_for(bool)
    child.kill()
    other = homes / "forebay-wake-notes"
    other.mkdir()
    (other / "s").write_text("precious")
    assert len(list(homes.iterdir())) == 2
    watch = wakeups.watch(KEY, lambda: None)
    assert len(list(homes.iterdir())) == 2  # its own
    assert (other / "s").read_text() == "precious"
    (other / "s").unlink()
    other.rmdir()
    watch.close()


@pytest.mark.parametrize("how", ["ring", "sweep"])
def test_a_killed_watcher_whose_socket_is_gone_is_forgotten(tmp_path: Path, homes: Path, how: str) -> None:
    """The machine was started anew, say, with an empty /tmp."""
    board = wakeups_of(tmp_path / "wakeups")
    place = tmp_path / "wakeups" / KEY
    place.mkdir(parents=True)
    (place / "gone").symlink_to("/tmp/forebay-gone/s")
    board.ring(KEY) if how == "ring" else board.sweep()
    assert not place.exists()
    board.close()


@pytest.mark.parametrize("how", ["ring", "sweep"])
def test_a_watcher_in_another_temporary_folder_is_not_forgotten(tmp_path: Path, homes: Path, how: str) -> None:
    """Whoever has a /tmp of its own, as in a container, cannot reach its socket, but sees its lock: those who can
    reach it wake it as before."""
    watcher, stranger = Owner(tmp_path / "owners"), Owner(tmp_path / "owners")
    board = Wakeups(tmp_path / "wakeups", owner=watcher.id, is_alive=watcher.is_alive)
    contained = Wakeups(tmp_path / "wakeups", owner=stranger.id, is_alive=stranger.is_alive)
    bell = Bell()
    board.watch(KEY, bell)
    (home,) = homes.iterdir()
    hidden = home.rename(home.with_name("of-another-mount"))
    contained.ring(KEY) if how == "ring" else contained.sweep()
    hidden.rename(home)
    assert links(tmp_path) == [KEY]
    board.ring(KEY)
    bell.wait()
    contained.close()
    board.close()
    watcher.close()
    stranger.close()


def test_what_is_not_ours_behind_a_link_stays(
    wakeups: Wakeups, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name in /tmp may be another user's by now."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "s").write_bytes(b"precious")
    place = tmp_path / "wakeups" / KEY
    place.mkdir(parents=True)
    (place / "gone").symlink_to(theirs / "s")
    us = os.geteuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: us + 1)
        wakeups.ring(KEY)
    assert not place.exists()
    assert (theirs / "s").read_bytes() == b"precious"


def test_two_come_and_go_on_one_key(wakeups: Wakeups, tmp_path: Path, homes: Path) -> None:
    """The folder of a key is made and removed under each other's eyes: no watch gets lost."""
    other = wakeups_of(tmp_path / "wakeups", "other")

    def come_and_go() -> None:
        for _ in range(300):
            other.watch(KEY, lambda: None).close()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    for _ in range(300):
        bell = Bell()
        watch = wakeups.watch(KEY, bell)
        other.ring(KEY)
        bell.wait()
        watch.close()
    thread.join()
    other.close()


def test_strange_datagrams_harm_nobody(wakeups: Wakeups, homes: Path) -> None:
    """Empty, binary, long: they are for nobody."""
    bell = Bell()
    wakeups.watch(KEY, bell)
    (address,) = homes.glob("*/s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        for data in (b"", b"\xff\xfe", b"x" * 10_000):
            stranger.sendto(data, str(address))
    wakeups.ring(KEY)
    bell.wait()
    assert bell.count == 1
