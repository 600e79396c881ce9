"""Uploads against small models: chunks in any order, repeated and overlapping; writers that take over from each other."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import zlib
from functools import cache
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from forebay import Forebay, IncomingMessage
from forebay.errors import (
    ChecksumMismatch,
    OffsetMismatch,
    UploadFinished,
    UploadIncomplete,
    UploadMismatch,
    UploadTaken,
    UploadTooLarge,
)
from forebay.models import ChunkRequest
from forebay.settings import Settings
from forebay.uploads.writing import Writer

# Without the phase that explains: it traces each line, which makes a run take minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)
MACHINES = settings(max_examples=25, stateful_step_count=25, deadline=None, phases=PHASES)


@cache
def _empty() -> Path:
    """A catalog with nothing in it: making one takes longer than a whole run."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    Forebay(Settings(data=folder)).close()
    return folder / "catalog.sqlite"


class Folder(RuleBasedStateMachine):
    """A folder, open in two processes as it were; each step is done by one of them."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        data = Path(self._folder.name)
        shutil.copy(_empty(), data / "catalog.sqlite")
        self.bays = [Forebay(Settings(data=data, min_free_disk_bytes=0)) for _ in range(2)]

    def teardown(self) -> None:
        for bay in self.bays:
            bay.close()
        self._folder.cleanup()

    def reopen(self, which: int) -> None:
        """As after a kill of that process: nothing is said to anybody, but its locks are gone."""
        old = self.bays[which]
        self.bays[which] = Forebay(Settings(data=old.folder, min_free_disk_bytes=0))
        old.close()


WHICH = st.integers(0, 1)


class Chunked(Folder):
    """The model of an upload of chunks: the bytes that were acknowledged last for each number."""

    @initialize(count=st.integers(1, 5), total=st.integers(0, 12))
    def begin(self, count: int, total: int) -> None:
        self.count, self.total = count, total
        self.uid = ""
        self.chunks: dict[int, bytes] = {}
        self.done: bytes | None = None

    def usual(self, number: int) -> int:
        """The size that chunk has when all but the last are alike."""
        size = -(-self.total // self.count)
        return max(0, min(size, self.total - number * size))

    @rule(which=WHICH, number=st.integers(0, 4), byte=st.integers(0, 255), odd=st.none() | st.integers(0, 6))
    def send(self, which: int, number: int, byte: int, odd: int | None) -> None:
        number %= self.count
        content = bytes([byte]) * (self.usual(number) if odd is None else odd)
        chunk = ChunkRequest(
            chunkCount=self.count,
            chunkNumber=number,
            content=content,
            fileName="any",
            totalSize=self.total,
            uploadUid=self.uid,
        )
        uploads = self.bays[which].uploads
        if self.done is not None and self.chunks[number] != content:
            with pytest.raises(UploadFinished):
                uploads.handle_chunk_request(IncomingMessage(), chunk)
            return
        self.uid = uploads.handle_chunk_request(IncomingMessage(), chunk).uploadUid
        self.chunks[number] = content

    @precondition(lambda self: self.uid)
    @rule(which=WHICH)
    def get(self, which: int) -> None:
        whole = b"".join(content for _, content in sorted(self.chunks.items()))
        uploads = self.bays[which].uploads
        if len(self.chunks) < self.count:
            with pytest.raises(UploadIncomplete) as caught:
                uploads.get_upload(self.uid)
            missing = {number for start, stop in caught.value.missing for number in range(start, stop)}
            assert missing == set(range(self.count)) - set(self.chunks)
        elif len(whole) != self.total:
            with pytest.raises(UploadMismatch) as mismatch:
                uploads.get_upload(self.uid)
            assert (mismatch.value.expected, mismatch.value.got) == (str(self.total), str(len(whole)))
        else:
            self.done = whole
            upload = uploads.get_upload(self.uid)
            assert upload.sha256 == hashlib.sha256(whole).hexdigest()
            with upload.open() as file:
                assert file.read() == whole

    @rule(which=WHICH)
    def restart(self, which: int) -> None:
        self.reopen(which)

    @precondition(lambda self: self.uid)
    @invariant()
    def every_acknowledged_byte_is_there(self) -> None:
        for which in range(2):
            state = self.bays[which].uploads.state(self.uid, owner=None)
            assert state.offset == sum(map(len, self.chunks.values()))
            assert state.is_complete is (self.done is not None)


class Sequential(Folder):
    """The model of an upload whose bytes come in order: what was taken, and who may write."""

    writers = Bundle("writers")

    @initialize(size=st.none() | st.integers(0, 12))
    def begin(self, size: int | None) -> None:
        self.size = size
        self.uid = self.bays[0].uploads.create(owner=None, size=size).uid
        self.taken = b""
        self.newest: Writer | None = None
        self.tentative = b""
        self.done = False

    @rule(
        target=writers, which=WHICH, lie=st.sampled_from([0, 0, 0, 1, -1]), data=st.none() | st.binary(max_size=4)
    )
    def take_over(self, which: int, lie: int, data: bytes | None) -> tuple[Writer, bytes | None] | None:
        """*data*: under its checksum, which is that of something else when it is not what is written."""
        uploads = self.bays[which].uploads
        checksum = None if data is None else ("crc32", f"{zlib.crc32(data):08x}")
        offset = len(self.taken) + lie
        if self.done:
            with pytest.raises(UploadFinished):
                uploads.writer(self.uid, owner=None, offset=offset)
            return None
        self.newest, self.tentative = None, b""
        if lie:
            with pytest.raises(OffsetMismatch) as caught:
                uploads.writer(self.uid, owner=None, offset=offset, checksum=checksum)
            assert caught.value.expected == len(self.taken)
            return None
        self.newest = uploads.writer(self.uid, owner=None, offset=offset, checksum=checksum)
        return self.newest, data

    @rule(writer=writers, data=st.binary(max_size=5))
    def write(self, writer: tuple[Writer, bytes | None] | None, data: bytes) -> None:
        if writer is None:
            return
        if writer[0] is not self.newest:
            with pytest.raises(UploadTaken):
                writer[0].write(data)
        elif self.size is not None and len(self.taken) + len(self.tentative) + len(data) > self.size:
            with pytest.raises(UploadTooLarge):
                writer[0].write(data)
        else:
            writer[0].write(data)
            if writer[1] is None:
                self.taken += data
            else:
                self.tentative += data

    @rule(writer=consumes(writers))
    def close(self, writer: tuple[Writer, bytes | None] | None) -> None:
        if writer is None:
            return
        if writer[0] is not self.newest:
            with pytest.raises(UploadTaken):
                writer[0].close()
            return
        if writer[1] is not None and writer[1] != self.tentative:
            with pytest.raises(ChecksumMismatch):
                writer[0].close()
        else:
            self.taken += self.tentative
            assert writer[0].close() == len(self.taken)
        self.newest, self.tentative = None, b""

    @rule(writer=consumes(writers))
    def go_away(self, writer: tuple[Writer, bytes | None] | None) -> None:
        """What came stays, unless it was under a checksum."""
        if writer is not None:
            writer[0].drop()
            if writer[0] is self.newest:
                self.newest, self.tentative = None, b""

    @rule(which=WHICH)
    def ask_settled(self, which: int) -> None:
        state = self.bays[which].uploads.state(self.uid, owner=None, settle=True)
        self.newest, self.tentative = None, b""
        assert state.offset == len(self.taken)
        self.done = self.done or (self.size is not None and len(self.taken) == self.size)
        assert state.is_complete is self.done

    @rule(which=WHICH)
    def complete(self, which: int) -> None:
        uploads = self.bays[which].uploads
        if len(self.taken) != self.size:
            with pytest.raises(UploadIncomplete):
                uploads.complete(self.uid, owner=None)
            return
        upload = uploads.complete(self.uid, owner=None)
        self.done, self.newest, self.tentative = True, None, b""
        assert upload is not None
        assert upload.sha256 == hashlib.sha256(self.taken).hexdigest()
        with upload.open() as file:
            assert file.read() == self.taken

    @rule(which=WHICH)
    def restart(self, which: int) -> None:
        """Its writers are cut, wherever they are; those of the other process go on."""
        mine = self.newest is not None and self.newest._sessions is self.bays[which].uploads
        self.reopen(which)
        if mine:
            self.newest, self.tentative = None, b""

    @invariant()
    def nobody_is_told_more_than_is_there(self) -> None:
        for bay in self.bays:
            assert bay.uploads.state(self.uid, owner=None).offset <= len(self.taken)


TestChunked = Chunked.TestCase
TestChunked.settings = MACHINES
TestSequential = Sequential.TestCase
TestSequential.settings = MACHINES
