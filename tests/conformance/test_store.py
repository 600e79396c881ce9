"""What every content store promises. An adapter is added by a rig: a `_…Rig` class in `RIGS`."""

from __future__ import annotations

import hashlib
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Protocol

import pytest

from forebay.content.files import FileContentStore
from forebay.content.store import ContentStore, SweepableStore
from forebay.errors import ContentRotten, StorageError

ONE, TWO = b"one" * 1000, b"two" * 1000


class Store(ContentStore, SweepableStore, Protocol):
    """Both capabilities: all that the suite needs."""


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class FilesRig:
    """Content-addressed local files, and how they are damaged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"
        self._incoming.mkdir()
        self.store = self.another()
        self._count = 0

    def another(self) -> FileContentStore:
        """The same content, seen by another process."""
        return FileContentStore(self._folder / "content")

    def source(self, data: bytes) -> Path:
        """A synced file outside of the store."""
        self._count += 1
        path = self._incoming / str(self._count)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return path

    def put(self, *datas: bytes) -> list[str]:
        """Commit; the digests."""
        files = [(self.source(data), digest(data), False) for data in datas]
        with self.store.committing():
            self.store.adopt(files)
        return [sha256 for _, sha256, _ in files]

    def damage(self, sha256: str, data: bytes | None) -> None:
        """Make the stored bytes of *sha256* those of *data*, behind the store's back; None: gone."""
        path = self.store.path(sha256)
        path.unlink()
        if data is not None:
            path.write_bytes(data)

    # Enters `sweeping` in a process of its own and says so.
    SWEEPER = """
import sys
from pathlib import Path
from forebay.content.files import FileContentStore
store = FileContentStore(Path(sys.argv[1]))
print("trying", flush=True)
with store.sweeping():
    print("in", flush=True)
    sys.stdin.readline()
"""

    def sweeper(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", self.SWEEPER, str(self._folder / "content")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


RIGS = [pytest.param(FilesRig, id="files")]


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> FilesRig:
    """One store with its instruments; an adapter's rig has the same methods."""
    made: FilesRig = request.param(tmp_path)
    return made


def read(store: Store, data: bytes) -> bytes:
    with store.open(digest(data), size_bytes=len(data)) as file:
        return file.read()


# --- committing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"x", ONE, b"\x00" * 3_000_000])
def test_what_was_committed_is_read_back(rig: FilesRig, data: bytes) -> None:
    """Byte for byte, by whoever opens the same store; the source is gone."""
    source = rig.source(data)
    with rig.store.committing():
        rig.store.adopt([(source, digest(data), False)])
    assert read(rig.store, data) == data
    assert read(rig.another(), data) == data
    assert rig.store.verify(digest(data), size_bytes=len(data)) is None
    assert not source.exists()


def test_several_contents_are_committed_at_once(rig: FilesRig) -> None:
    """Each under its own digest."""
    datas = [bytes([n]) * 100 for n in range(40)]
    rig.put(*datas)
    assert [read(rig.store, data) for data in datas] == datas


def test_equal_content_is_stored_once(rig: FilesRig) -> None:
    """Whoever brings it, at once or one after the other."""
    rig.put(ONE, ONE)
    rig.put(ONE)
    assert [(sha256, size) for sha256, _, size in rig.store.stored()] == [(digest(ONE), len(ONE))]


def test_committing_again_mends_rot(rig: FilesRig) -> None:
    """Fresh bytes replace what is there, right or not."""
    (sha256,) = rig.put(ONE)
    rig.damage(sha256, b"rot" * 1000)
    rig.put(ONE)
    assert read(rig.store, ONE) == ONE
    assert rig.store.verify(sha256, size_bytes=len(ONE)) is None


def test_a_source_that_is_gone_is_an_error_of_the_storage(rig: FilesRig, tmp_path: Path) -> None:
    """It is mapped; nothing is stored under the digest."""
    rig.put(TWO)  # folders that are there, and folders that are not
    for data in (ONE, TWO, b"three"):
        sha256 = digest(b"missing" + data)
        with rig.store.committing():
            (error,) = rig.store.adopt([(tmp_path / "nothing", sha256, False)])
        assert isinstance(error, StorageError)
        with pytest.raises(ContentRotten):
            rig.store.open(sha256, size_bytes=0)


def test_two_commits_may_run_at_once(rig: FilesRig) -> None:
    """`committing` is shared: each thread is inside while the other is."""
    both = threading.Barrier(2, timeout=30)
    errors: list[BaseException] = []

    def commit(data: bytes) -> None:
        try:
            with rig.another().committing():
                both.wait()
                rig.store.adopt([(sources[data], digest(data), False)])
                both.wait()
        except BaseException as error:
            errors.append(error)
            raise

    sources = {data: rig.source(data) for data in (ONE, TWO)}
    threads = [threading.Thread(target=commit, args=(data,)) for data in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert [read(rig.store, data) for data in sources] == [ONE, TWO]


# --- reading --------------------------------------------------------------------------------------------


def test_content_is_a_seekable_binary_file(rig: FilesRig) -> None:
    """Any part of it can be read."""
    rig.put(ONE)
    file: BinaryIO
    with rig.store.open(digest(ONE), size_bytes=len(ONE)) as file:
        assert file.seekable()
        assert file.seek(-3, os.SEEK_END) == len(ONE) - 3
        assert file.read() == b"one"
        file.seek(1)
        assert file.read(2) == b"ne"
        assert not file.writable()


def test_what_was_never_stored_is_reported_as_gone(rig: FilesRig) -> None:
    """`ContentRotten` names the content."""
    with pytest.raises(ContentRotten) as caught:
        rig.store.open(digest(ONE), size_bytes=len(ONE))
    assert caught.value.sha256 == digest(ONE)
    assert rig.store.verify(digest(ONE), size_bytes=len(ONE)) is not None


@pytest.mark.parametrize("found", [None, b"", ONE[:-1], ONE + b"x"])
def test_content_of_another_size_is_not_opened(rig: FilesRig, found: bytes | None) -> None:
    """Gone, empty, short or long: it is seen at once, and `verify` says what was found."""
    (sha256,) = rig.put(ONE)
    rig.damage(sha256, found)
    with pytest.raises(ContentRotten) as caught:
        rig.store.open(sha256, size_bytes=len(ONE))
    said = rig.store.verify(sha256, size_bytes=len(ONE))
    assert said == caught.value.found
    assert "gone" in said if found is None else f"{len(found)} bytes instead of {len(ONE)}" == said


def test_verify_reads_every_byte(rig: FilesRig) -> None:
    """A wrong byte in the right size is found by its digest only."""
    (sha256,) = rig.put(ONE)
    rotten = b"X" + ONE[1:]
    rig.damage(sha256, rotten)
    assert rig.store.verify(sha256, size_bytes=len(ONE)) == f"its bytes hash to {digest(rotten)}"


# --- removing -------------------------------------------------------------------------------------------


def test_open_readers_survive_a_delete(rig: FilesRig) -> None:
    """A version that is being read is never pulled away; who comes later does not find it."""
    rig.put(ONE)
    with rig.store.open(digest(ONE), size_bytes=len(ONE)) as file:
        assert file.read(3) == b"one"
        with rig.store.sweeping():
            rig.store.delete(digest(ONE))
        assert file.read() == ONE[3:]
    with pytest.raises(ContentRotten):
        rig.store.open(digest(ONE), size_bytes=len(ONE))


def test_open_readers_survive_a_replacement(rig: FilesRig) -> None:
    """They keep what they opened; later ones get the fresh bytes."""
    rig.put(ONE)
    with rig.store.open(digest(ONE), size_bytes=len(ONE)) as file:
        rig.put(ONE)
        assert file.read() == ONE


def test_a_delete_leaves_the_others(rig: FilesRig) -> None:
    """And doing it twice is doing it once."""
    one, two = rig.put(ONE, TWO)
    for _ in range(2):
        with rig.store.sweeping():
            rig.store.delete(one)
    assert [sha256 for sha256, _, _ in rig.store.stored()] == [two]
    assert read(rig.store, TWO) == TWO


def test_what_is_stored_is_listed_with_the_time_of_its_storing(rig: FilesRig) -> None:
    """The sweep's grace time runs from the commit, not from when the bytes were written."""
    source = rig.source(ONE)
    os.utime(source, (1.0, 1.0))
    before = time.time()
    with rig.store.committing():
        rig.store.adopt([(source, digest(ONE), False)])
    ((sha256, stored_at, size),) = rig.store.stored()
    assert (sha256, size) == (digest(ONE), len(ONE))
    assert stored_at >= before - 1  # a file system's clock is coarser than ours


def test_an_empty_store_lists_nothing(rig: FilesRig) -> None:
    """Nothing of the store's own is mistaken for content."""
    with rig.store.committing(), rig.store.committing():
        pass
    assert list(rig.store.stored()) == []


# --- the sweep and the commits --------------------------------------------------------------------------

Lock = Callable[[Store], AbstractContextManager[None]]


def committing(store: Store) -> AbstractContextManager[None]:
    return store.committing()


def sweeping(store: Store) -> AbstractContextManager[None]:
    return store.sweeping()


@pytest.mark.parametrize(
    ("first", "second"), [(committing, sweeping), (sweeping, committing), (sweeping, sweeping)]
)
def test_a_sweep_runs_alone(rig: FilesRig, first: Lock, second: Lock) -> None:
    """Between `adopt` and the catalog row no sweep runs, and the other way round."""
    trying, entered = threading.Event(), threading.Event()
    order: list[str] = []

    def enter() -> None:
        store = rig.another()
        trying.set()
        with second(store):
            entered.set()
            order.append("second")

    thread = threading.Thread(target=enter)
    with first(rig.store):
        thread.start()
        assert trying.wait(30)
        assert not entered.wait(0.1)  # it cannot come true while we are inside, however long we wait
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_a_sweep_of_another_process_waits_for_a_commit(rig: FilesRig) -> None:
    """And a commit for it; a killed sweeper holds nobody up."""
    with rig.sweeper() as child:
        assert child.stdout is not None
        with rig.store.committing():
            assert child.stdout.readline() == "trying\n"
            assert select.select([child.stdout], [], [], 0.1)[0] == []
        assert child.stdout.readline() == "in\n"
        child.kill()
    with rig.store.committing():
        pass


def test_an_error_inside_lets_the_lock_go(rig: FilesRig) -> None:
    """Whoever comes next gets in."""
    for lock in (committing, sweeping):
        with pytest.raises(KeyError), lock(rig.store):
            raise KeyError
    with rig.store.sweeping():
        pass


# --- files only: the order on the disk (DESIGN.md, invariants 2 and 7) -----------------------------------


def test_files_are_synced_by_name_before_adopt_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each folder that got a new name is synced after its last rename."""
    rig = FilesRig(tmp_path)
    files = [(rig.source(bytes([n])), digest(bytes([n])), False) for n in range(60)]
    order: list[tuple[str, Path]] = []
    rename, mkdir, fsync = os.rename, os.mkdir, os.fsync

    def recorded_rename(source: str | Path, target: str | Path) -> None:
        rename(source, target)
        order.append(("named in", Path(target).parent))

    def recorded_mkdir(path: str | Path, *args: int) -> None:
        mkdir(path, *args)
        order.append(("named in", Path(path).parent))

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        order.append(("synced", by_inode[os.fstat(descriptor).st_ino]))

    monkeypatch.setattr(os, "rename", recorded_rename)
    monkeypatch.setattr(os, "mkdir", recorded_mkdir)
    by_inode = _Folders(tmp_path)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    rig.store.adopt(files)
    monkeypatch.undo()

    named = {folder for what, folder in order if what == "named in"}
    assert rig.store.folder in named
    assert {rig.store.path(sha256).parent for _, sha256, _ in files} <= named
    for folder in named:
        last = max(n for n, item in enumerate(order) if item == ("named in", folder))
        assert ("synced", folder) in order[last:]


class _Folders(dict[int, Path]):
    """Folders by inode, looked up when asked."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def __missing__(self, inode: int) -> Path:
        return next(path for path in (self._root, *self._root.rglob("*")) if path.stat().st_ino == inode)


def test_a_file_s_path_is_made_of_its_digest_alone(tmp_path: Path) -> None:
    """No name from outside is ever part of it."""
    rig = FilesRig(tmp_path)
    rig.put(ONE)
    path = rig.store.path(digest(ONE))
    assert "".join(path.relative_to(rig.store.folder).parts) == digest(ONE)


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "sha3_512"])
def test_files_can_be_hashed_in_another_way(tmp_path: Path, algorithm: str) -> None:
    """In hex, over all bytes."""
    rig = FilesRig(tmp_path)
    rig.put(ONE)
    assert rig.store.digest(digest(ONE), algorithm) == hashlib.new(algorithm, ONE).hexdigest()


def test_damaged_files_are_not_hashed_in_another_way(tmp_path: Path) -> None:
    """What a digest would be remembered of takes the damaged one's place, and has another one."""
    rig = FilesRig(tmp_path)
    rig.put(ONE)
    path = rig.store.path(digest(ONE))
    path.chmod(0o600)
    path.write_bytes(ONE[::-1])
    with pytest.raises(ContentRotten):
        rig.store.digest(digest(ONE), "md5")
    rig.put(ONE)
    assert rig.store.digest(digest(ONE), "md5") == hashlib.md5(ONE).hexdigest()


def test_another_digest_costs_one_reading(tmp_path: Path) -> None:
    """It is a property of the content, which never changes: asked for again, no file is read."""
    rig = FilesRig(tmp_path)
    rig.put(ONE)
    known = rig.store.digest(digest(ONE), "md5")
    rig.store.path(digest(ONE)).unlink()
    assert rig.store.digest(digest(ONE), "md5") == known


def test_hashing_what_is_gone_says_so(tmp_path: Path) -> None:
    """`ContentRotten` as from `open`: an error of the operating system never leaves the adapter."""
    with pytest.raises(ContentRotten):
        FilesRig(tmp_path).store.digest(digest(ONE), "md5")


def test_content_that_cannot_be_read_is_reported_by_verify(tmp_path: Path) -> None:
    """A read error of the disk is an outcome of `verify`, not its end."""
    rig = FilesRig(tmp_path)
    rig.put(ONE)
    path = rig.store.path(digest(ONE))
    path.unlink()
    path.mkdir()
    size_bytes = path.stat().st_size
    found = rig.store.verify(digest(ONE), size_bytes=size_bytes)
    assert found is not None
    assert found.startswith("cannot be read: ")


def test_a_path_that_should_stay_stays(tmp_path: Path) -> None:
    """A download whose commit never comes can be resumed from it; where the content is already, it is replaced."""
    rig = FilesRig(tmp_path)
    first, second = rig.source(ONE), rig.source(ONE)
    for source, stays in ((first, True), (second, False)):
        with rig.store.committing():
            assert rig.store.adopt([(source, digest(ONE), True)]) == [None]
        assert source.exists() == stays
        assert rig.store.verify(digest(ONE), size_bytes=len(ONE)) is None
