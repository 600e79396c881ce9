"""Followers of a growing file: never a byte too many, never an end that is none, whoever renames or removes it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from forebay.content import partial as module
from forebay.content.following import Following, Followings
from forebay.content.partial import PartialFile, Partials, State, read_mark
from forebay.errors import FollowBroken, StorageFailed

KEY = "0123456789abcdef0123456789abcdef"


def meta(total: int | None = None, owner: str = "me") -> bytes:
    return f"{owner} {'' if total is None else total}".encode()


def total_of(meta: bytes) -> int | None:
    total = meta.split(b" ")[1]
    return int(total) if total else None


def version_of(meta: bytes) -> str | None:
    """The third word, if there is one."""
    return [*meta.split(b" "), b""][2].decode() or None


class Rung(list[str]):
    """The keys that were rung; what *then* does is done at each ring, by the writer's thread."""

    def __init__(self) -> None:
        super().__init__()
        self.then: Callable[[], None] = lambda: None

    def __call__(self, key: str) -> None:
        self.append(key)
        self.then()


@pytest.fixture
def rung() -> Rung:
    return Rung()


@pytest.fixture
def partials(tmp_path: Path, rung: Rung) -> Partials:
    return Partials(tmp_path / "partial", ring=rung)


def newest_fence(followings: Followings) -> int:
    """That of the Request's row, in the life of a download."""
    return max((int(path.name.split(".")[1]) for path in followings.folder.glob(f"{KEY}.*.mark")), default=0)


@pytest.fixture
def followings(partials: Partials) -> Followings:
    return Followings(partials, total_of=total_of, version_of=version_of)


@pytest.fixture
def follow(followings: Followings) -> Iterator[Callable[[], Following]]:
    """``follow()``: a Following, closed when the test ends."""
    opened: list[Following] = []

    def begin() -> Following:
        following = followings.follow(KEY, fence=newest_fence(followings), live=lambda meta: True)
        assert following is not None
        opened.append(following)
        return following

    yield begin
    for following in opened:
        following.close()


def begun(partials: Partials, data: bytes = b"", *, total: int | None = None, fence: int = 1) -> PartialFile:
    partial = partials.create(KEY, fence=fence, generation=fence)
    partial.keep_mark(meta(total))
    if data:
        partial.append(memoryview(data))
    return partial


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


# --- while it grows -------------------------------------------------------------------------------------


def test_what_has_landed_is_read_from_any_offset(partials: Partials, follow: Callable[[], Following]) -> None:
    """As it lands; beyond it there is nothing yet."""
    partial = begun(partials, b"abc", total=10)
    following = follow()
    assert following.total == 10
    assert following.read(0, 100) == b"abc"
    assert following.read(1, 1) == b"b"
    assert (following.read(3, 5), following.read(8, 5), following.read(100, 5)) == (b"", b"", b"")
    partial.append(memoryview(b"defg"))
    assert following.read(2, 100) == b"cdefg"
    buffer = bytearray(8)
    assert following.readinto(memoryview(buffer), 5) == 2
    assert buffer[:2] == b"fg"
    assert not following.at_end(7)
    partial.close()


def test_bytes_beyond_the_mark_are_not_read(partials: Partials, follow: Callable[[], Following]) -> None:
    """Half of a block may be in the file: only the mark says what is true."""
    partial = begun(partials, b"abc", total=10)
    following = follow()
    with partial.path.open("ab") as file:
        file.write(b"not yet")
    assert following.read(0, 100) == b"abc"
    partial.close()


def test_the_last_byte_of_a_known_total_waits_for_the_whole(
    partials: Partials, follow: Callable[[], Following]
) -> None:
    """All bytes are there, but they may still turn out to be the wrong ones."""
    partial = begun(partials, b"abcdef", total=6)
    following = follow()
    assert following.read(0, 100) == b"abcde"
    assert following.read(5, 100) == b""
    assert not following.at_end(6)
    partial.sync()
    assert following.read(5, 100) == b""
    partial.seal()
    assert following.read(5, 100) == b"f"
    assert following.at_end(6)
    assert not following.at_end(5)
    partial.close()


def test_a_read_that_waits_for_no_disk_gives_the_same_or_nothing(
    partials: Partials, follow: Callable[[], Following]
) -> None:
    """What may not be read is not there; None says that only a read in a thread can tell."""
    partial = begun(partials, b"abcdef", total=6)
    following = follow()
    assert following.read_cached(0, 100) in (b"abcde", None)
    assert following.read_cached(5, 100) == b""
    partial.seal()
    assert following.read_cached(5, 100) in (b"f", None)
    assert following.read_cached(6, 100) == b""
    os.truncate(partial.path, 0)
    with pytest.raises(StorageFailed):
        following.read(0, 100)
        following.read_cached(0, 100)
    partial.close()


def test_more_bytes_than_the_total_are_not_handed_out(partials: Partials, follow: Callable[[], Following]) -> None:
    """An origin that sends too much: that generation will fail."""
    partial = begun(partials, b"abcdef", total=4)
    assert follow().read(0, 100) == b"abc"
    partial.close()


def test_without_a_total_the_end_is_known_when_it_is_whole(
    partials: Partials, follow: Callable[[], Following]
) -> None:
    """Every byte that landed is handed out, but no end."""
    partial = begun(partials, b"abc")
    following = follow()
    assert following.total is None
    assert following.read(0, 100) == b"abc"
    assert (following.read(3, 100), following.at_end(3)) == (b"", False)
    partial.keep_mark(meta(total=3))
    assert (following.read(3, 100), following.at_end(3)) == (b"", False)
    partial.seal()
    assert (following.read(3, 100), following.at_end(3), following.total) == (b"", True, 3)
    partial.close()


def test_it_is_whole_only_when_the_bytes_are_synced(
    partials: Partials, follow: Callable[[], Following], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync that fails leaves it growing."""
    partial = begun(partials, b"abc", total=3)
    following = follow()

    def refused(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "sync_file", refused)
    with pytest.raises(StorageFailed):
        partial.seal()
    assert following.look().state is State.GROWING
    assert following.read(0, 100) == b"ab"
    partial.discard()
    with pytest.raises(FollowBroken):
        following.read(0, 100)


# --- how it ends ----------------------------------------------------------------------------------------


def test_whole_and_committed_is_read_on(
    partials: Partials, tmp_path: Path, follow: Callable[[], Following]
) -> None:
    """Linked into the store, its name removed, its mark, too: who has it open reads to the end."""
    partial = begun(partials, b"abcdef", total=6)
    following, late = follow(), follow()
    assert following.read(0, 3) == b"abc"
    partial.seal()
    (tmp_path / "content").hardlink_to(partial.path)
    partial.leave()
    assert list(partials.folder.iterdir()) == []
    assert following.read(3, 100) == b"def"
    assert following.at_end(6)
    assert late.state is State.WHOLE


def test_given_up_breaks_everyone_off(partials: Partials, follow: Callable[[], Following]) -> None:
    """Also what is there already is read no more: it will never be a part of anything."""
    partial = begun(partials, b"abc", total=10)
    following = follow()
    partial.discard()
    for read in (lambda: following.read(0, 1), lambda: following.readinto(memoryview(bytearray(1)), 0)):
        with pytest.raises(FollowBroken) as broken:
            read()
        assert (broken.value.code, broken.value.status, broken.value.retryable) == ("follow_broken", 502, True)
    assert (following.state, following.at_end(3)) == (State.GIVEN_UP, False)


@pytest.mark.parametrize("how", ["dropped by key", "replaced", "mark removed"])
def test_a_growing_file_whose_mark_is_gone_is_given_up(
    partials: Partials, follow: Callable[[], Following], how: str
) -> None:
    """Its writer was killed, and whoever came next could not go on with it."""
    old = begun(partials, b"abc", total=10)
    following = follow()
    new = None
    match how:
        case "dropped by key":
            partials.discard(KEY)
        case "replaced":
            new = partials.create(KEY, fence=1, generation=2)
            new.keep_mark(meta(10))
        case "mark removed":
            (partials.folder / f"{KEY}.1.mark").unlink()
    with pytest.raises(FollowBroken):
        following.read(0, 1)
    old.close()
    if new is not None:
        assert follow().known.generation == 2
        new.close()


def test_whole_stays_whole(partials: Partials, follow: Callable[[], Following]) -> None:
    """Its commit failed, and another process took it over to ask the origin again: who has seen that it is
    whole reads on, whatever comes of that."""
    partial = begun(partials, b"abc", total=3)
    following = follow()
    partial.seal()
    partial.close()
    assert following.look().state is State.WHOLE
    adopted = partials.adopt(KEY, fence=2, trust=lambda *_: True)
    assert adopted is not None
    adopted[0].keep_mark(meta(3, "other"))
    adopted[0].discard()
    assert following.read(0, 100) == b"abc"
    assert following.at_end(3)


def test_whole_but_not_taken_in(
    partials: Partials, followings: Followings, follow: Callable[[], Following]
) -> None:
    """Its commit failed: who has seen that it is whole reads on, nobody new begins, and it can be resumed."""
    partial = begun(partials, b"abc", total=3)
    following = follow()
    partial.seal()
    assert following.look().state is State.WHOLE
    partial.stand(lambda meta: meta.replace(b"me", b"nobody"))
    assert following.read(0, 100) == b"abc"
    assert followings.follow(KEY, fence=newest_fence(followings), live=lambda _: True) is None
    adopted = partials.adopt(KEY, fence=2, trust=lambda *_: True)
    assert adopted is not None
    assert adopted[0].length == 3
    adopted[0].close()


def test_a_whole_mark_without_its_file_is_no_success_for_a_stranger(
    partials: Partials, followings: Followings
) -> None:
    """Nobody new follows what has just been committed: it is in the store."""
    partial = begun(partials, b"abc", total=3)
    partial.seal()
    partial.path.unlink()
    assert followings.follow(KEY, fence=newest_fence(followings), live=lambda _: True) is None
    partial.close()


def test_a_takeover_is_followed(partials: Partials, follow: Callable[[], Following]) -> None:
    """The names change, the files stay: what the next one appends is read on."""
    first = begun(partials, b"abc", total=6)
    following = follow()
    first.close()
    adopted = partials.adopt(KEY, fence=2, trust=lambda *_: True)
    assert adopted is not None
    second, _ = adopted
    second.keep_mark(meta(6, "other"))
    assert following.look().state is State.STANDING
    assert following.read(0, 100) == b"abc"
    second.append(memoryview(b"def"))
    assert following.read(3, 100) == b"de"
    second.seal()
    assert following.read(5, 100) == b"f"
    second.close()


def test_what_another_version_makes_of_it_is_not_for_its_readers(
    partials: Partials, followings: Followings, follow: Callable[[], Following]
) -> None:
    """A fetch failed for good, and the next one goes on with what it had: who read the first is broken off, though
    it reads slowly and never came to the edge; who reads the second has all."""
    first = partials.create(KEY, fence=1, generation=1)
    first.append(memoryview(b"abc"))
    first.keep_mark(meta(6) + b" one")
    of_one = follow()
    assert of_one.read(0, 1) == b"a"
    first.close()
    adopted = partials.adopt(KEY, fence=2, trust=lambda *_: True)
    assert adopted is not None
    second, _ = adopted
    second.keep_mark(meta(6) + b" two")
    second.append(memoryview(b"def"))
    with pytest.raises(FollowBroken):
        of_one.read(1, 1)
    of_two = follow()
    assert of_two.read(0, 100) == b"abcde"
    second.seal()
    assert of_two.read(5, 100) == b"f"
    with pytest.raises(FollowBroken):
        of_one.read(1, 1)
    second.close()


def test_the_old_owner_s_letting_go_does_not_break_it_off(
    partials: Partials, follow: Callable[[], Following]
) -> None:
    """It still has the files open; they are another's by now."""
    old = begun(partials, b"abc", total=6)
    following = follow()
    adopted = partials.adopt(KEY, fence=2, trust=lambda *_: True)
    assert adopted is not None
    adopted[0].keep_mark(meta(6, "other"))
    old.discard()
    assert following.read(0, 100) == b"abc"
    adopted[0].append(memoryview(b"d"))
    assert following.read(3, 100) == b"d"
    adopted[0].close()


# --- whom to follow -------------------------------------------------------------------------------------


def test_there_is_nothing_to_follow(partials: Partials, followings: Followings) -> None:
    """Nothing there; no mark yet; a torn one; one that was left to be resumed; one whose writer is gone."""
    everyone = lambda _: True  # noqa: E731
    assert followings.follow(KEY, fence=newest_fence(followings), live=everyone) is None
    partial = partials.create(KEY, fence=1, generation=1)
    partial.append(memoryview(b"abc"))
    assert followings.follow(KEY, fence=newest_fence(followings), live=everyone) is None
    partial.keep_mark(meta(10))
    assert followings.follow(KEY, fence=newest_fence(followings), live=lambda meta: b"me" not in meta) is None
    path = partials.folder / f"{KEY}.1.mark"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert followings.follow(KEY, fence=newest_fence(followings), live=everyone) is None
    path.write_bytes(whole)
    partial.keep_mark(meta(10), standing=True)
    assert followings.follow(KEY, fence=newest_fence(followings), live=everyone) is None
    partial.close()


def test_what_was_adopted_is_followed_from_the_first_byte_that_is_appended(
    partials: Partials, followings: Followings, follow: Callable[[], Following]
) -> None:
    """Before, nobody knows whether the origin still has the same."""
    begun(partials, b"abc", total=6).close()
    adopted = partials.adopt(KEY, fence=2, trust=lambda *_: True)
    assert adopted is not None
    adopted[0].keep_mark(meta(6))
    assert followings.follow(KEY, fence=newest_fence(followings), live=lambda _: True) is None
    adopted[0].append(memoryview(b"d"))
    assert follow().read(0, 100) == b"abcd"
    adopted[0].close()


def test_a_long_meta_is_read_whole(partials: Partials, follow: Callable[[], Following]) -> None:
    """An origin's fields may have 128 KiB."""
    for length in (4096 - 72, 4096 * 2 - 72, 140_000):
        partial = partials.create(KEY, fence=1, generation=1)
        partial.keep_mark(b"x" * length + b" 7")
        following = follow()
        assert following.total == 7
        assert following.known.meta == b"x" * length + b" 7"
        partial.discard()


def test_all_followers_share_the_open_files(partials: Partials, followings: Followings) -> None:
    """A thousand cost two descriptors, which the last one gives back."""
    partial = begun(partials, b"abc", total=10)
    before = descriptors()
    followers = [followings.follow(KEY, fence=newest_fence(followings), live=lambda _: True) for _ in range(1000)]
    assert descriptors() == before + 2
    for follower in followers[1:]:
        assert follower is not None
        assert follower.read(0, 10) == b"abc"
        follower.close()
    last = followers[0]
    assert last is not None
    assert last.read(0, 10) == b"abc"
    last.close()
    assert descriptors() == before
    with pytest.raises(StorageFailed):
        last.read(0, 10)
    again = followings.follow(KEY, fence=newest_fence(followings), live=lambda _: True)
    assert again is not None
    again.close()
    partial.close()


def test_a_takeover_between_opening_and_opening(
    partials: Partials, followings: Followings, monkeypatch: pytest.MonkeyPatch, follow: Callable[[], Following]
) -> None:
    """The names change under our eyes: nothing is under this fence any more, all of it is under the next."""
    begun(partials, b"abc", total=10).close()
    really_open = os.open
    taken: list[PartialFile] = []

    def overtaken(path: Path, *how: int) -> int:
        if Path(path).name == f"{KEY}.1.part":
            monkeypatch.undo()
            adopted = partials.adopt(KEY, fence=2, trust=lambda *_: True)
            assert adopted is not None
            taken.append(adopted[0])
            taken[0].append(memoryview(b"d"))
        return really_open(path, *how)

    monkeypatch.setattr(os, "open", overtaken)
    assert followings.follow(KEY, fence=1, live=lambda _: True) is None
    assert follow().read(0, 100) == b"abcd"
    taken[0].close()


def test_nobody_looks_through_the_folder(
    partials: Partials, followings: Followings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have thousands of leftovers, and an event loop follows: files are opened by their names."""
    begun(partials, b"abc", total=10).close()

    def refuse(*_: object) -> None:
        raise AssertionError("somebody lists the folder")

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", refuse)
    following = followings.follow(KEY, fence=1, live=lambda _: True)
    assert following is not None
    assert following.read(0, 100) == b"abc"
    following.close()
    assert followings.follow(KEY, fence=2, live=lambda _: True) is None
    for fence in (1, 2):  # the second is about to take it over
        mark = partials.mark_at(KEY, fence=fence)
        assert mark is not None
        assert mark.length == 3
    assert partials.mark_at(KEY, fence=3) is None


# --- the mark's states ----------------------------------------------------------------------------------


def test_marks_of_before_are_growing(partials: Partials) -> None:
    """What an older Forebay wrote has 0 in the place of the state."""
    begun(partials, b"abc").close()
    path = partials.folder / f"{KEY}.1.mark"
    assert path.read_bytes()[12:16] == b"\0\0\0\0"
    mark = read_mark(path)
    assert mark is not None
    assert mark.state is State.GROWING


def test_a_state_of_a_newer_forebay_is_no_mark(partials: Partials, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what it means: it is neither resumed nor followed."""
    partial = begun(partials, b"abc")

    class Newer:
        value = 9

    partial._state = Newer()  # type: ignore[assignment]
    partial._advance()
    assert partials.mark(KEY) is None
    partial.close()


def test_each_change_of_a_mark_rings(partials: Partials, rung: Rung, follow: Callable[[], Following]) -> None:
    """After the change, so that who looks then sees it; a file without a mark rings nobody."""
    silent = partials.create("e" * 32, fence=1, generation=1)
    silent.append(memoryview(b"abc"))
    silent.seal()
    silent.discard()
    assert rung == []
    seen: list[tuple[State, int]] = []
    partial = partials.create(KEY, fence=1, generation=1)
    following: list[Following] = []

    def look() -> None:
        following[:] = following or [follow()]
        mark = following[0].look()
        seen.append((mark.state, mark.length))

    rung.then = look
    partial.keep_mark(meta(6))
    partial.append(memoryview(b"abc"))
    partial.append(memoryview(b"def"))
    partial.sync()
    partial.seal()
    partial.discard()
    assert set(rung) == {KEY}
    assert seen[:4] == [(State.GROWING, 0), (State.GROWING, 3), (State.GROWING, 6), (State.WHOLE, 6)]


# --- whatever happens, in whatever order ------------------------------------------------------------------


class Readers(RuleBasedStateMachine):
    """One writer after the other on one key, readers that come at any time: what they have read is always a
    prefix of what their generation will be, and an end is only told of what was sealed."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.home = tempfile.TemporaryDirectory()
        self.partials = Partials(Path(self.home.name))
        self.followings = Followings(self.partials, total_of=total_of, version_of=version_of)
        self.fence = 0
        self.writer: PartialFile | None = None
        self.body = b""
        self.total: int | None = None
        # What each generation's readers may believe in the end, once it was sealed.
        self.sealed: dict[int, bytes] = {}
        self.bodies: dict[int, bytes] = {}
        self.readers: list[tuple[Following, bytearray]] = []

    @precondition(lambda self: self.writer is None)
    @rule(body=st.binary(min_size=1, max_size=20), known=st.booleans())
    def begin(self, body: bytes, known: bool) -> None:
        self.fence += 1
        self.body, self.total = body, len(body) if known else None
        self.writer = self.partials.create(KEY, fence=self.fence, generation=self.fence)
        self.writer.keep_mark(meta(self.total))
        self.bodies[self.fence] = body

    @precondition(lambda self: self.writer is not None)
    @rule(size=st.integers(1, 9))
    def append(self, size: int) -> None:
        assert self.writer is not None
        self.writer.append(memoryview(self.body)[self.writer.length :][:size])

    @precondition(lambda self: self.writer is not None and self.writer.length == len(self.body))
    @rule(committed=st.booleans())
    def seal(self, committed: bool) -> None:
        assert self.writer is not None
        self.writer.seal()
        self.sealed[self.writer.generation] = self.body
        if committed:
            self.writer.discard()
        else:
            self.writer.close()
        self.writer = None

    @precondition(lambda self: self.writer is not None)
    @rule(how=st.sampled_from(["discard", "killed"]))
    def stop(self, how: str) -> None:
        assert self.writer is not None
        if how == "discard":
            self.writer.discard()
        else:
            self.writer.close()
        self.writer = None

    @precondition(lambda self: self.writer is None and self.fence)
    @rule(trusted=st.booleans())
    def take_over(self, trusted: bool) -> None:
        self.fence += 1
        adopted = self.partials.adopt(KEY, fence=self.fence, trust=lambda *_: trusted)
        if adopted is not None:
            self.writer = adopted[0]
            self.body = self.bodies[self.writer.generation]
            self.writer.keep_mark(adopted[1])

    @rule()
    def follow(self) -> None:
        following = self.followings.follow(KEY, fence=newest_fence(self.followings), live=lambda _: True)
        if following is not None:
            self.readers.append((following, bytearray()))

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), size=st.integers(1, 30))
    def read(self, data: st.DataObject, size: int) -> None:
        following, got = data.draw(st.sampled_from(self.readers))
        try:
            got += following.read(len(got), size)
        except FollowBroken:
            assert following.state is State.GIVEN_UP
            following.close()
            self.readers = [(other, read) for other, read in self.readers if read is not got]

    @invariant()
    def readers_are_right(self) -> None:
        for following, got in self.readers:
            generation = following.known.generation
            assert self.bodies[generation].startswith(got)
            if following.at_end(len(got)):
                assert got == self.sealed[generation]
            if following.total is not None and len(got) == following.total:
                assert generation in self.sealed

    def teardown(self) -> None:
        for following, _ in self.readers:
            following.close()
        if self.writer is not None:
            self.writer.close()
        self.home.cleanup()


Readers.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestReaders = Readers.TestCase


def test_a_reader_beside_a_writer(tmp_path: Path) -> None:
    """It looks again at each ring, while another thread writes: never a torn mark, a byte too many, or a hang."""
    arrived = threading.Event()
    partials = Partials(tmp_path / "partial", ring=lambda _: arrived.set())
    followings = Followings(partials, total_of=total_of, version_of=version_of)
    body = os.urandom(40_000)
    partial = begun(partials, total=len(body))

    def write() -> None:
        for at in range(0, len(body), 16):
            partial.append(memoryview(body)[at : at + 16])
        partial.seal()
        partial.discard()

    following = followings.follow(KEY, fence=newest_fence(followings), live=lambda _: True)
    assert following is not None
    writer = threading.Thread(target=write)
    writer.start()
    got = bytearray()
    while not following.at_end(len(got)):
        piece = following.read(len(got), 1000)
        got += piece
        if not piece and not following.at_end(len(got)):
            assert arrived.wait(30)
            arrived.clear()
    writer.join()
    assert got == body
    following.close()


@given(st.binary(max_size=300))
def test_no_bytes_make_following_fail(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever a mark has become: it is not followed."""
    folder = tmp_path_factory.getbasetemp() / "following"
    partials = Partials(folder)
    (folder / f"{KEY}.1.mark").write_bytes(data)
    assert (
        Followings(partials, total_of=total_of, version_of=version_of).follow(KEY, fence=1, live=lambda _: True)
        is None
    )
