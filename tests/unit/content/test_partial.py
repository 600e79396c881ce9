"""The growing file and its watermark: what may be believed after a kill, a crash and a takeover."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.content import partial as module
from forebay.content.partial import PartialFile, Partials, read_mark
from forebay.errors import DiskFull, StorageFailed

KEY = "0123456789abcdef0123456789abcdef"
META = b'{"etag": "\\"v1\\""}'


@pytest.fixture
def partials(tmp_path: Path) -> Partials:
    return Partials(tmp_path / "partial")


def begun(partials: Partials, *pieces: bytes, fence: int = 1, generation: int = 1) -> PartialFile:
    """A marked partial file with *pieces* in it, nothing of it synced."""
    partial = partials.create(KEY, fence=fence, generation=generation)
    partial.keep_mark(META)
    for piece in pieces:
        partial.append(memoryview(piece))
    return partial


def mark_path(partials: Partials, fence: int = 1) -> Path:
    return partials.folder / f"{KEY}.{fence}.mark"


def part_path(partials: Partials, fence: int = 1) -> Path:
    return partials.folder / f"{KEY}.{fence}.part"


def seen(partials: Partials, key: str = KEY) -> tuple[int, int, int, bytes] | None:
    """Generation, length, synced length and meta, as another process sees them."""
    mark = partials.mark(key)
    return None if mark is None else (mark.generation, mark.length, mark.synced, mark.meta)


def adopt(partials: Partials, *, fence: int, trusted: bool = True) -> tuple[PartialFile, bytes] | None:
    return partials.adopt(KEY, fence=fence, trust=lambda meta, _: trusted and meta == META)


def content(partial: PartialFile) -> bytes:
    pieces: list[bytes] = []
    partial.read_through(lambda piece: pieces.append(bytes(piece)))
    return b"".join(pieces)


def start_the_machine_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mark so far was written before the crash of the machine."""
    boot = module._boot()
    monkeypatch.setattr(module, "_boot", lambda: boot + 1)


# --- writing --------------------------------------------------------------------------------------------


def test_what_is_appended_is_marked(partials: Partials) -> None:
    """Another process sees how far it is, and what the download remembers."""
    partial = begun(partials, b"abc", b"", b"defg", generation=3)
    assert seen(partials) == (3, 7, 0, META)
    assert partial.path.read_bytes() == b"abcdefg"
    assert partial.length == 7
    partial.close()


def test_what_is_synced_is_marked_so(partials: Partials) -> None:
    """The synced length is that of the moment of the sync."""
    partial = begun(partials, b"abc")
    partial.sync()
    partial.append(memoryview(b"d"))
    assert seen(partials) == (1, 4, 3, META)
    partial.close()


def test_a_file_without_a_mark_cannot_be_followed(partials: Partials) -> None:
    """A body of one piece never gets one: it is written, synced and committed at once."""
    partial = partials.create(KEY, fence=1, generation=1)
    partial.append(memoryview(b"abc"))
    partial.sync()
    assert not partial.marked
    assert partials.mark(KEY) is None
    assert adopt(partials, fence=2) is None
    partial.close()


def test_a_mark_may_be_begun_late_and_its_meta_replaced(partials: Partials) -> None:
    """It then counts what is there already; a shorter meta leaves nothing of the longer one."""
    partial = partials.create(KEY, fence=1, generation=1)
    partial.append(memoryview(b"abc"))
    partial.keep_mark(META)
    assert partial.marked
    partial.keep_mark(b"{}")
    assert seen(partials) == (1, 3, 0, b"{}")
    partial.close()


def test_the_mark_is_advanced_after_the_write(partials: Partials, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any instant of an append the marked bytes are in the file: a killed writer leaves a true mark."""
    partial = begun(partials, b"abc")
    pwrite = os.pwrite
    sizes: list[tuple[int, int]] = []

    def watched(descriptor: int, data: memoryview, offset: int) -> int:
        for cut in (data[:1], data):  # a kill may come in the middle of a write
            done = pwrite(descriptor, cut, offset)
            mark = partials.mark(KEY)
            if mark is not None:
                sizes.append((mark.length, part_path(partials).stat().st_size))
        return done

    monkeypatch.setattr(os, "pwrite", watched)
    partial.append(memoryview(b"defg"))
    monkeypatch.undo()
    assert all(marked <= there for marked, there in sizes)
    assert sizes[-1] == (7, 7)
    assert seen(partials) == (1, 7, 0, META)
    partial.close()


def test_a_mark_says_synced_after_the_bytes_are(partials: Partials, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes, then the mark; when the first sync fails the mark does not lie."""
    partial = begun(partials, b"abc")
    sync = "fdatasync" if hasattr(os, "fdatasync") else "fsync"

    def refused(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, sync, refused)
    monkeypatch.setattr("forebay.durable._FULL_SYNC", None)
    with pytest.raises(StorageFailed, match="Input/output error"):
        partial.sync()
    monkeypatch.undo()
    assert seen(partials) == (1, 3, 0, META)
    partial.close()


def test_a_write_that_comes_short_goes_on(partials: Partials, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal may make one write short."""
    pwrite = os.pwrite
    partial = partials.create(KEY, fence=1, generation=1)
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:2], offset))
    partial.append(memoryview(b"abcdefg"))
    monkeypatch.undo()
    assert content(partial) == b"abcdefg"
    partial.close()


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EIO, StorageFailed)]
)
def test_a_failed_write_leaves_the_mark_true(
    partials: Partials, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    """Half of a block on the disk is not counted, and the errors of the system are ours."""
    partial = begun(partials, b"abc")
    pwrite = os.pwrite
    calls: list[int] = []

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        if len(calls) == 1:
            return pwrite(descriptor, data[:2], offset)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(error):
        partial.append(memoryview(b"defg"))
    monkeypatch.undo()
    assert calls == [3, 5]
    assert partial.length == 3
    assert seen(partials) == (1, 3, 0, META)
    assert content(partial) == b"abc"
    partial.close()


def test_creating_where_no_file_can_be_is_an_error_of_the_storage(partials: Partials) -> None:
    """The folder has gone."""
    partials.folder.rmdir()
    with pytest.raises(StorageFailed):
        partials.create(KEY, fence=1, generation=1)


def test_a_sync_beside_an_append_never_takes_the_mark_back(
    partials: Partials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run in two threads: what a follower has once been told stays told."""
    partial = begun(partials, b"abc")
    pwrite = os.pwrite
    appended = threading.Event()

    def append() -> None:
        partial.append(memoryview(b"def"))
        appended.set()

    thread = threading.Thread(target=append)

    def overtaken(descriptor: int, data: memoryview, offset: int) -> int:
        if threading.current_thread() is not thread and not thread.ident:
            thread.start()
            appended.wait(0.2)  # a lock around the mark may keep it from coming before us
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", overtaken)
    partial.sync()
    thread.join()
    monkeypatch.undo()
    assert seen(partials) == (1, 6, 3, META)
    partial.close()


# --- marks that cannot be believed ------------------------------------------------------------------------


def test_no_mark_is_none(tmp_path: Path) -> None:
    """Nothing there: nothing known."""
    assert read_mark(tmp_path / "none.mark") is None


def test_a_torn_mark_is_no_mark(partials: Partials) -> None:
    """Cut off anywhere, it is not believed; whole again, it is."""
    begun(partials, b"abc").close()
    path = mark_path(partials)
    whole, mark = path.read_bytes(), read_mark(path)
    assert mark is not None
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_mark(path) is None
    path.write_bytes(whole)
    assert read_mark(path) == mark


def test_a_mark_with_any_changed_byte_is_no_mark_or_the_same(partials: Partials) -> None:
    """Each byte that says something is covered by a checksum."""
    begun(partials, b"abc").close()
    path = mark_path(partials)
    whole, mark = path.read_bytes(), read_mark(path)
    assert mark is not None
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        assert read_mark(path) in (None, mark)


@given(st.binary(max_size=200))
def test_no_bytes_make_reading_a_mark_fail(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Whatever is in the file: it is no mark."""
    path = tmp_path_factory.getbasetemp() / "any.mark"
    path.write_bytes(data)
    assert read_mark(path) is None


def test_a_torn_mark_is_not_resumed(partials: Partials) -> None:
    """Its bytes are dropped: nobody knows which of them are true."""
    begun(partials, b"abc").close()
    mark_path(partials).write_bytes(mark_path(partials).read_bytes()[:-1])
    assert adopt(partials, fence=2) is None
    assert list(partials.folder.iterdir()) == []


# --- after a crash of the machine -------------------------------------------------------------------------


def test_after_a_kill_all_that_was_written_counts(partials: Partials) -> None:
    """The machine still runs, so the kernel has the bytes."""
    partial = begun(partials, b"abc")
    partial.sync()
    partial.append(memoryview(b"def"))
    partial.close()
    adopted = adopt(partials, fence=2)
    assert adopted is not None
    assert (adopted[0].length, adopted[0].synced) == (6, 3)
    adopted[0].close()


def test_after_a_crash_of_the_machine_only_the_synced_length_counts(
    partials: Partials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is beyond may be anything; it is cut off."""
    partial = begun(partials, b"abc")
    partial.sync()
    partial.append(memoryview(b"def"))
    partial.close()
    start_the_machine_anew(monkeypatch)
    assert seen(partials) == (1, 3, 3, META)
    adopted = adopt(partials, fence=2)
    assert adopted is not None
    assert content(adopted[0]) == b"abc"
    assert part_path(partials, 2).read_bytes() == b"abc"
    adopted[0].append(memoryview(b"DEF"))
    assert seen(partials) == (1, 6, 3, META)
    adopted[0].close()


def test_after_a_crash_nothing_that_was_never_synced_is_resumed(
    partials: Partials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A synced length of 0 is nothing to go on from."""
    begun(partials, b"abc").close()
    start_the_machine_anew(monkeypatch)
    assert adopt(partials, fence=2) is None
    assert list(partials.folder.iterdir()) == []


def test_a_second_crash_before_anything_new_counts_the_same(
    partials: Partials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adopting alone does not make unsynced bytes true."""
    partial = begun(partials, b"abc")
    partial.sync()
    partial.append(memoryview(b"def"))
    partial.close()
    for fence in (2, 3):
        start_the_machine_anew(monkeypatch)
        adopted = adopt(partials, fence=fence)
        assert adopted is not None
        assert content(adopted[0]) == b"abc"
        adopted[0].close()


# --- taking over --------------------------------------------------------------------------------------------


def test_adopting_goes_on_where_the_mark_says(partials: Partials) -> None:
    """Under the new fence, with the old generation and its meta; bytes beyond the mark are cut off."""
    partial = begun(partials, b"abc", generation=4)
    partial.close()
    with part_path(partials).open("ab") as file:
        file.write(b"written, but not marked")
    adopted = adopt(partials, fence=2)
    assert adopted is not None
    resumed, meta = adopted
    assert (resumed.length, resumed.generation, meta) == (3, 4, META)
    assert part_path(partials, 2).read_bytes() == b"abc"
    resumed.append(memoryview(b"def"))
    assert content(resumed) == b"abcdef"
    assert seen(partials) == (4, 6, 0, META)
    resumed.close()


def test_an_old_owner_cannot_commit_what_was_adopted(partials: Partials) -> None:
    """The name that it would hand to the store is gone; letting go of its files harms nobody."""
    old = begun(partials, b"abc")
    adopted = adopt(partials, fence=2)
    assert adopted is not None
    assert not old.path.exists()
    with pytest.raises(FileNotFoundError):
        old.path.rename(partials.folder / "committed")
    old.discard()
    assert content(adopted[0]) == b"abc"
    assert seen(partials) == (1, 3, 0, META)
    adopted[0].close()


def test_the_newest_fence_is_adopted(partials: Partials) -> None:
    """Numbers, not texts: 10 comes after 9."""
    for fence, piece in ((9, b"old"), (10, b"newer")):
        begun(partials, piece, fence=fence).close()
    adopted = adopt(partials, fence=11)
    assert adopted is not None
    assert content(adopted[0]) == b"newer"
    adopted[0].close()


def test_one_s_own_fence_can_be_adopted(partials: Partials) -> None:
    """Nothing is renamed then."""
    begun(partials, b"abc", fence=2).close()
    adopted = adopt(partials, fence=2)
    assert adopted is not None
    assert content(adopted[0]) == b"abc"
    adopted[0].close()


def test_another_key_s_file_is_not_touched(partials: Partials) -> None:
    """Keys are compared whole."""
    other = partials.create("f" * 32, fence=1, generation=1)
    other.keep_mark(META)
    other.append(memoryview(b"abc"))
    assert adopt(partials, fence=2) is None
    assert seen(partials, "f" * 32) == (1, 3, 0, META)
    other.close()


@pytest.mark.parametrize("left", [b"ab", None])
def test_a_file_that_is_shorter_than_its_mark_is_not_resumed(partials: Partials, left: bytes | None) -> None:
    """Or one that is gone: the mark must have lied, and everything of it is dropped."""
    begun(partials, b"abc").close()
    part_path(partials).unlink()
    if left is not None:
        part_path(partials).write_bytes(left)
    assert adopt(partials, fence=2) is None
    assert list(partials.folder.iterdir()) == []


def test_what_the_caller_does_not_trust_is_dropped(partials: Partials) -> None:
    """It looks at the meta: whoever still holds the file open could write into it."""
    begun(partials, b"abc").close()
    assert adopt(partials, fence=2, trusted=False) is None
    assert list(partials.folder.iterdir()) == []


def test_another_file_in_the_place_of_the_marked_one_is_not_resumed(partials: Partials) -> None:
    """A mark speaks of one file; the same name is not enough."""
    begun(partials, b"abc").close()
    with part_path(partials).open("rb"):  # keeps the number of the old file from being given again
        part_path(partials).unlink()
        part_path(partials).write_bytes(b"XYZ and more")
        assert adopt(partials, fence=2) is None
    assert list(partials.folder.iterdir()) == []


def test_an_empty_partial_is_not_resumed(partials: Partials) -> None:
    """There is nothing to go on from."""
    begun(partials).close()
    assert adopt(partials, fence=2) is None


def test_a_takeover_that_was_killed_between_its_renames_loses_nothing(
    partials: Partials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 at any instant: a partial that was synced is still resumed by whoever comes next."""
    partial = begun(partials, b"abc")
    partial.sync()
    partial.close()
    rename = os.rename
    renamed: list[object] = []

    def killed_after_one(source: object, target: object) -> None:
        if renamed:
            raise KeyboardInterrupt
        rename(source, target)  # type: ignore[call-overload]
        renamed.append(target)

    monkeypatch.setattr(os, "rename", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        adopt(partials, fence=2)
    monkeypatch.undo()
    assert len(renamed) == 1
    adopted = adopt(partials, fence=3)
    assert adopted is not None
    assert content(adopted[0]) == b"abc"
    adopted[0].close()


# --- generations and ends -----------------------------------------------------------------------------------


def test_a_new_generation_drops_the_old_one_but_not_its_readers(partials: Partials) -> None:
    """Whoever has the old file open reads on; the new one begins empty, without a mark."""
    begun(partials, b"abc").close()
    with part_path(partials).open("rb") as reader:
        new = partials.create(KEY, fence=1, generation=2)
        assert partials.mark(KEY) is None
        new.keep_mark(b"{}")
        new.append(memoryview(b"XY"))
        assert reader.read() == b"abc"
    assert seen(partials) == (2, 2, 0, b"{}")
    assert content(new) == b"XY"
    new.close()


def test_reading_through_gives_pieces_in_order(partials: Partials) -> None:
    """A MiB at most each."""
    data = os.urandom(2_500_000)
    partial = begun(partials, data)
    sizes: list[int] = []
    pieces: list[bytes] = []

    def take(piece: memoryview) -> None:
        sizes.append(len(piece))
        pieces.append(bytes(piece))

    partial.read_through(take)
    assert b"".join(pieces) == data
    assert max(sizes) == 1 << 20
    partial.close()


def test_reading_through_notices_a_file_that_has_shrunk(partials: Partials) -> None:
    """Fewer bytes than marked are an error, never a shorter prefix."""
    partial = begun(partials, b"abc")
    os.truncate(partial.path, 2)
    with pytest.raises(StorageFailed, match="2 of 3 bytes"):
        content(partial)
    partial.close()


def test_a_sealed_file_is_synced_and_read_only(partials: Partials) -> None:
    """It goes into the store as it is."""
    partial = begun(partials, b"abc")
    partial.seal()
    assert partial.path.stat().st_mode & 0o777 == 0o444
    assert seen(partials) == (1, 3, 3, META)
    partial.close()


@contextmanager
def an_ordinary_user_s_folder() -> Iterator[Path]:
    """A folder in which the rights of its files count: for root they do not."""
    folder = Path(tempfile.mkdtemp())
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_sealed_file_whose_owner_was_killed_before_the_commit_is_resumed() -> None:
    """Between the seal and the rename nothing is lost, whoever the user is."""
    with an_ordinary_user_s_folder() as folder:
        partials = Partials(folder / "partial")
        partial = begun(partials, b"abc")
        partial.seal()
        partial.close()
        adopted = adopt(partials, fence=2)
        assert adopted is not None
        assert content(adopted[0]) == b"abc"
        adopted[0].append(memoryview(b"def"))
        assert seen(partials) == (1, 6, 3, META)
        adopted[0].close()


def test_discarding_leaves_nothing(partials: Partials) -> None:
    """By the file or by the key; twice is once."""
    partial = begun(partials, b"abc")
    partial.discard()
    partial.discard()
    assert list(partials.folder.iterdir()) == []
    begun(partials, b"abc", fence=1).close()
    begun(partials, b"abc", fence=2).close()
    partials.discard(KEY)
    partials.discard(KEY)
    assert list(partials.folder.iterdir()) == []


def test_what_has_moved_into_the_store_leaves_no_mark(partials: Partials, tmp_path: Path) -> None:
    """Nobody would resume it."""
    partial = begun(partials, b"abc")
    partial.path.rename(tmp_path / "committed")
    partial.leave()
    assert list(partials.folder.iterdir()) == []
    assert partials.mark(KEY) is None


def test_leftovers_are_listed_by_key(partials: Partials) -> None:
    """With the time of the last write, marked or not; so is a mark that has lost its file."""
    begun(partials, b"abc", fence=3).close()
    os.utime(part_path(partials, 3), (5.0, 5.0))
    partials.create("e" * 32, fence=1, generation=1).close()
    lonely = partials.create("d" * 32, fence=1, generation=1)
    lonely.keep_mark(META)
    lonely.close()
    lonely.path.unlink()
    listed = list(partials.leftovers())
    found = {key: (at, size) for key, at, size in listed}
    assert found[KEY] == (5.0, 3)
    assert found["e" * 32][1] == 0
    assert found["d" * 32][1] > 0
    assert len(listed) == 3


def test_names_can_be_made_to_survive_a_crash(partials: Partials, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder itself is synced."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    partials.sync_folder()
    assert synced == [partials.folder.stat().st_ino]


def test_what_the_store_has_is_never_cut(
    partials: Partials, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A crash of the machine may put the mark back behind the bytes that were stored: the download starts over."""
    partial = begun(partials, b"abc")
    partial.sync()
    partial.append(memoryview(b"defg"))
    partial.close()
    stored = tmp_path / "stored"
    stored.hardlink_to(part_path(partials))
    start_the_machine_anew(monkeypatch)
    assert adopt(partials, fence=2) is None
    assert stored.read_bytes() == b"abcdefg"
