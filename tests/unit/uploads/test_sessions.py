"""Uploads of one folder: who may have them, what they may take, how they end, and what they become."""

import errno
import hashlib
import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forebay
import forebay.content.partial
from forebay import Forebay, IncomingMessage
from forebay.errors import (
    ChecksumMismatch,
    ChunkInvalid,
    InvalidValue,
    LengthMismatch,
    OffsetMismatch,
    StorageFailed,
    TooManyUploads,
    UnknownRequest,
    UnknownUpload,
    UploadExpired,
    UploadFinished,
    UploadIncomplete,
    UploadMismatch,
    UploadQuota,
    UploadTaken,
    UploadTooLarge,
)
from forebay.models import ChunkRequest, Upload

DATA = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def bay(make_bay: Callable[..., Forebay]) -> Forebay:
    return make_bay(min_free_disk_bytes=0)


def whole(bay: Forebay, data: bytes = DATA, **values: Any) -> Upload:
    """A complete upload of *data*."""
    uid = bay.uploads.create(**({"owner": None, "size": len(data)} | values)).uid
    with bay.uploads.writer(uid, owner=values.get("owner")) as writer:
        writer.write(data)
        upload = writer.complete()
    assert upload is not None
    return upload


def send(bay: Forebay, number: int, content: bytes, **values: Any) -> str:
    usual = {"chunkCount": 3, "fileName": "any", "totalSize": 9, "uploadUid": ""}
    chunk = ChunkRequest(**(usual | {"chunkNumber": number, "content": content} | values))
    return bay.uploads.handle_chunk_request(IncomingMessage(), chunk).uploadUid


def read(upload: Upload) -> bytes:
    with upload.open() as file:
        return file.read()


def files(bay: Forebay) -> list[Path]:
    return [path for path in (bay.folder / "uploads").rglob("*") if path.is_file()]


# --- bytes in order -----------------------------------------------------------------------------------------


def test_an_upload_is_content_when_it_is_complete(bay: Forebay) -> None:
    """Hashed, stored once, described; nothing is left where it was written."""
    name = "Größe/../日本.tif"
    upload = whole(bay, file_name=name, metadata={"a": "b\x00"}, media_type=None)
    assert (upload.fileName, upload.totalSize, upload.sha256) == (name, len(DATA), SHA256)
    assert (upload.media_type, upload.metadata, upload.owner, upload.state) == (
        "image/tiff", {"a": "b\x00"}, None, "complete"
    )  # fmt: skip
    assert read(upload) == DATA
    assert bay.usage().contents == 1
    assert files(bay) == []
    assert bay.verify().checked == 1


def test_an_empty_upload_is_one(bay: Forebay) -> None:
    """Of no bytes at all, also as chunks."""
    assert read(whole(bay, b"")) == b""
    uid = send(bay, 0, b"", chunkCount=0, totalSize=0)
    assert read(bay.uploads.get_upload(uid)) == b""


def test_an_upload_goes_on_where_it_broke_off(bay: Forebay) -> None:
    """In as many writers as it takes; the offset that is told is on the disk."""
    uid = bay.uploads.create(owner=None, size=len(DATA)).uid
    for start in range(0, len(DATA), 100_000):
        with bay.uploads.writer(uid, owner=None, offset=start) as writer:
            writer.write(DATA[start : start + 100_000])
            assert writer.close() == min(start + 100_000, len(DATA))
        assert bay.uploads.state(uid, owner=None).offset == min(start + 100_000, len(DATA))
    assert read(bay.uploads.get_upload(uid)) == DATA


def test_a_wrong_offset_is_told_with_the_right_one(bay: Forebay) -> None:
    """And whoever wrote until then is cut, for its client has come back."""
    uid = bay.uploads.create(owner=None, size=10).uid
    cut = threading.Event()
    writer = bay.uploads.writer(uid, owner=None, on_cut=cut.set)
    writer.write(b"12345")
    with pytest.raises(OffsetMismatch) as caught:
        bay.uploads.writer(uid, owner=None, offset=9)
    assert (caught.value.expected, caught.value.got) == (5, 9)
    assert cut.is_set()
    with pytest.raises(UploadTaken):
        writer.write(b"6")
    with pytest.raises(UploadTaken):
        writer.close()


def test_more_than_was_declared_is_not_taken(bay: Forebay) -> None:
    """Nothing of the piece; what came before stays."""
    uid = bay.uploads.create(owner=None, size=4).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(b"123")
        with pytest.raises(UploadTooLarge):
            writer.write(b"45")
        assert writer.close() == 3


def test_a_length_may_be_said_later_and_once(bay: Forebay) -> None:
    """Until then nothing is whole; saying it again is fine, another one is not, nor less than has arrived."""
    uid = bay.uploads.create(owner=None).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(b"123")
        writer.close()
    with pytest.raises(UploadIncomplete) as caught:
        bay.uploads.complete(uid, owner=None)
    assert caught.value.missing == ()
    with pytest.raises(LengthMismatch):
        bay.uploads.set_size(uid, owner=None, size=2)
    bay.uploads.set_size(uid, owner=None, size=3)
    bay.uploads.set_size(uid, owner=None, size=3)
    with pytest.raises(LengthMismatch):
        bay.uploads.set_size(uid, owner=None, size=4)
    assert read(bay.uploads.get_upload(uid)) == b"123"


def test_bytes_under_a_checksum_count_when_it_is_right(bay: Forebay) -> None:
    """A wrong one, and a client that goes away before it can be checked, leave what was there before."""
    uid = bay.uploads.create(owner=None, size=6).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(b"123")
        writer.close()
    for name, digest in (("md5", "0" * 32), ("crc32", "0" * 8)):
        with bay.uploads.writer(uid, owner=None, offset=3, checksum=(name, digest)) as writer:
            writer.write(b"xyz")
            with pytest.raises(ChecksumMismatch):
                writer.close()
    with bay.uploads.writer(uid, owner=None, offset=3, checksum=("md5", "0" * 32)) as writer:
        writer.write(b"xy")
    with bay.uploads.writer(uid, owner=None, offset=3, checksum=("crc32", f"{zlib.crc32(b'456'):08x}")) as writer:
        writer.write(b"456")
        upload = writer.complete()
    assert upload is not None
    assert read(upload) == b"123456"
    with pytest.raises(InvalidValue, match="crc32"):
        bay.uploads.writer(uid, owner=None, checksum=("crc64", "0"))


def test_a_digest_that_does_not_match_says_both_and_keeps_the_session(bay: Forebay) -> None:
    """The right one, later, completes it. Until then nobody does, not by asking for it, nor with another that is right
    besides."""
    md5 = hashlib.md5(DATA).hexdigest()
    uid = bay.uploads.create(owner=None, size=len(DATA), digests={"md5": md5}).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(DATA)
        with pytest.raises(UploadMismatch) as caught:
            writer.complete({"sha512": "0" * 128})
    assert (caught.value.what, caught.value.expected) == ("sha512", "0" * 128)
    assert caught.value.got == hashlib.sha512(DATA).hexdigest()
    assert not bay.uploads.state(uid, owner=None, settle=True).is_complete
    for digests in ({}, {"sha256": SHA256}, {"md5": md5}):
        with pytest.raises(UploadMismatch):
            bay.uploads.complete(uid, owner=None, digests=digests)
    upload = bay.uploads.complete(uid, owner=None, digests={"sha512": caught.value.got})
    assert upload is not None
    assert read(upload) == DATA


def test_completing_again_gives_the_same(bay: Forebay) -> None:
    """Nothing of it can change any more."""
    upload = whole(bay)
    assert bay.uploads.complete(upload.uploadUid, owner=None) == upload
    with pytest.raises(UploadFinished):
        bay.uploads.writer(upload.uploadUid, owner=None)
    for digest in ({"sha256": "0" * 64}, {"sha512": "0" * 128}):
        with pytest.raises(UploadMismatch):
            bay.uploads.complete(upload.uploadUid, owner=None, digests=digest)
    assert (
        bay.uploads.complete(upload.uploadUid, owner=None, digests={"md5": hashlib.md5(DATA).hexdigest()}) == upload
    )


def test_many_threads_that_ask_for_one_upload_get_the_same(bay: Forebay) -> None:
    """It is made content once, and nobody is turned away."""
    uid = bay.uploads.create(owner=None, size=len(DATA)).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(DATA)
        writer.close()
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(bay.uploads.get_upload(uid).sha256)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [SHA256] * 8


# --- several that become one --------------------------------------------------------------------------------


def test_parts_become_one_and_are_used_up(bay: Forebay) -> None:
    """In the order that is asked for, whoever was whole first."""
    uids = []
    for part in (DATA[:1000], b"", DATA[1000:]):
        uid = bay.uploads.create(owner=None, size=len(part), partial=True).uid
        with bay.uploads.writer(uid, owner=None) as writer:
            writer.write(part)
            assert writer.complete() is None
        uids.append(uid)
    with pytest.raises(UnknownUpload):
        bay.uploads.get_upload(uids[0])
    state = bay.uploads.concatenate(uids, owner=None, file_name="all.bin", digests={"sha256": SHA256})
    assert (state.is_complete, state.size, state.sha256) == (True, len(DATA), SHA256)
    assert read(bay.uploads.get_upload(state.uid)) == DATA
    for uid in uids:
        with pytest.raises(UnknownUpload):
            bay.uploads.state(uid, owner=None)
    assert files(bay) == []


def test_parts_stay_when_nothing_can_come_of_them(bay: Forebay) -> None:
    """One that is not whole, a digest that does not match, one that is no part."""
    part = bay.uploads.create(owner=None, size=3, partial=True).uid
    with pytest.raises(UploadIncomplete):
        bay.uploads.concatenate([part], owner=None)
    with bay.uploads.writer(part, owner=None) as writer:
        writer.write(b"123")
        writer.close()
    with pytest.raises(UploadMismatch):
        bay.uploads.concatenate([part, part], owner=None, digests={"sha256": SHA256})
    for parts in ([], [whole(bay).uploadUid]):
        with pytest.raises(InvalidValue):
            bay.uploads.concatenate(parts, owner=None)
    state = bay.uploads.concatenate([part, part], owner=None)
    assert read(bay.uploads.get_upload(state.uid)) == b"123123"


# --- chunks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 1, 2, 0, 2)])
def test_chunks_come_in_any_order_and_again(bay: Forebay, order: tuple[int, ...]) -> None:
    """The first to arrive need not be number 0; what comes again changes nothing."""
    chunks, uid = [b"abcd", b"efgh", b"i"], ""
    for number in order:
        uid = send(bay, number, chunks[number], uploadUid=uid)
    assert read(bay.uploads.get_upload(uid)) == b"abcdefghi"
    assert send(bay, 1, b"efgh", uploadUid=uid) == uid
    with pytest.raises(UploadFinished):
        send(bay, 1, b"EFGH", uploadUid=uid)


def test_chunks_of_unequal_sizes_are_put_in_order(bay: Forebay) -> None:
    """Also when one that came before is replaced by one of another size."""
    uid = send(bay, 2, b"i")
    uid = send(bay, 0, b"xy", uploadUid=uid)
    uid = send(bay, 1, b"cdefgh", uploadUid=uid)
    uid = send(bay, 0, b"ab", uploadUid=uid)
    assert read(bay.uploads.get_upload(uid)) == b"abcdefghi"


def test_sizes_that_do_not_add_up_are_told_when_it_is_asked_for(bay: Forebay) -> None:
    """Each chunk is taken; then both values are said, and a chunk mends it."""
    uid = send(bay, 0, b"abcd")
    send(bay, 2, b"i", uploadUid=uid)
    with pytest.raises(UploadIncomplete) as incomplete:
        bay.uploads.get_upload(uid)
    assert (incomplete.value.missing, incomplete.value.counted) == (((1, 2),), "chunks")
    send(bay, 1, b"efghijk", uploadUid=uid)
    with pytest.raises(UploadMismatch) as mismatch:
        bay.uploads.get_upload(uid)
    assert (mismatch.value.expected, mismatch.value.got) == ("9", "12")
    send(bay, 1, b"efgh", uploadUid=uid)
    assert read(bay.uploads.get_upload(uid)) == b"abcdefghi"


def test_a_chunk_that_cannot_be_is_refused(bay: Forebay) -> None:
    """A number outside the count, a count or a total that is another, a digest that is not its own."""
    uid = send(bay, 0, b"abcd")
    refused: list[dict[str, Any]] = [{"chunkCount": 2}, {"totalSize": 10}]
    for wrong in refused:
        with pytest.raises(ChunkInvalid):
            send(bay, 1, b"efgh", **(wrong | {"uploadUid": uid}))
    with pytest.raises(ChunkInvalid, match="chunkNumber"):
        send(bay, 3, b"", uploadUid=uid)
    with pytest.raises(ChunkInvalid):
        send(bay, 0, b"abcd", uploadUid=bay.uploads.create(owner=None, size=9).uid)
    with pytest.raises(ChecksumMismatch):
        send(bay, 1, b"efgh", uploadUid=uid, digest="sha256:" + "0" * 64)
    good = hashlib.sha1(b"efgh").hexdigest()
    send(bay, 1, b"efgh", uploadUid=uid, digest=f"sha1:{good}")
    assert bay.uploads.state(uid, owner=None).offset == 8


def test_chunks_come_from_many_threads_at_once(bay: Forebay) -> None:
    """Twice each, some with other bytes first: those that came last count, all the others too."""
    count, step = 40, 1000
    data = os.urandom(count * step - 300)
    values = {"chunkCount": count, "totalSize": len(data)}
    uid = send(bay, 0, data[:step], **values)

    def some(first: int) -> None:
        for number in range(first, count, 4):
            send(bay, number, b"?" * len(data[number * step : (number + 1) * step]), uploadUid=uid, **values)
            send(bay, number, data[number * step : (number + 1) * step], uploadUid=uid, **values)

    threads = [threading.Thread(target=some, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(bay.uploads.get_upload(uid)) == data


# --- owners and limits --------------------------------------------------------------------------------------


def test_an_owner_sees_only_its_own_uploads(bay: Forebay) -> None:
    """Another one's is unknown, like one that does not exist; Python that names no owner sees all."""
    uid = bay.uploads.create(owner="a", size=1).uid
    done = whole(bay, owner="a")
    calls: list[Callable[[str | None], object]] = [
        lambda owner: bay.uploads.state(uid, owner=owner),
        lambda owner: bay.uploads.writer(uid, owner=owner),
        lambda owner: bay.uploads.complete(uid, owner=owner),
        lambda owner: bay.uploads.cancel(uid, owner=owner),
        lambda owner: bay.uploads.get_upload(done.uploadUid, owner=owner),
    ]
    for call in calls:
        for owner in ("b", None):
            with pytest.raises(UnknownUpload):
                call(owner)
    assert bay.uploads.get_upload(done.uploadUid).owner == "a"
    for wrong in ("", "0" * 32, "../../etc/passwd", "\ud800" * 32, "A" * 32):
        with pytest.raises(UnknownUpload):
            bay.uploads.state(wrong, owner=None)


def test_limits_hold_before_anything_is_read(make_bay: Callable[..., Forebay]) -> None:
    """Size, number and bytes of an owner's uploads, and the number of all; what was cancelled counts no more."""
    bay = make_bay(
        min_free_disk_bytes=0,
        max_upload_bytes=100,
        max_uploads_per_owner=2,
        max_uploads=3,
        max_upload_bytes_per_owner=150,
    )
    with pytest.raises(UploadTooLarge):
        bay.uploads.create(owner="a", size=101)
    first = bay.uploads.create(owner="a", size=100).uid
    with pytest.raises(UploadQuota) as quota:
        bay.uploads.create(owner="a", size=51)
    assert (quota.value.limit_bytes, quota.value.held_bytes, quota.value.got) == (150, 100, 51)
    bay.uploads.create(owner="a", size=50)
    with pytest.raises(TooManyUploads) as many:
        bay.uploads.create(owner="a", size=0)
    assert many.value.limit == 2
    bay.uploads.create(owner="b", size=1)
    with pytest.raises(TooManyUploads) as all_of_them:
        send(bay, 0, b"abcd")
    assert all_of_them.value.limit == 3
    bay.uploads.cancel(first, owner="a")
    bay.uploads.create(owner="a", size=100)


def test_an_upload_without_a_length_reserves_as_it_grows(make_bay: Callable[..., Forebay]) -> None:
    """It may not become larger than others, nor take more of its owner's bytes than there are."""
    bay = make_bay(min_free_disk_bytes=0, max_upload_bytes=100)
    with bay.uploads.writer(bay.uploads.create(owner=None).uid, owner=None) as writer:
        writer.write(bytes(100))
        with pytest.raises(UploadTooLarge):
            writer.write(b"1")
    other = make_bay("other", min_free_disk_bytes=0, max_upload_bytes_per_owner=100)
    with other.uploads.writer(other.uploads.create(owner=None).uid, owner=None) as writer:
        with pytest.raises(UploadQuota):
            writer.write(bytes(101))
        assert writer.close() == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": -1}, {"size": 2**63}, {"file_name": "\ud800"}, {"media_type": "a\r\nb"}, {"digests": {"md5": "0"}},
        {"digests": {"none": "0"}},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_creation(bay: Forebay, wrong: dict[str, Any]) -> None:
    """Negative and huge lengths, text that is none, digests that are none."""
    with pytest.raises(InvalidValue):
        bay.uploads.create(**({"owner": None, "size": 1} | wrong))


# --- the end of uploads -------------------------------------------------------------------------------------


def test_what_is_cancelled_leaves_nothing(bay: Forebay) -> None:
    """Its writer is cut, its bytes go, and it is unknown from then on; so with one that is complete."""
    uid = bay.uploads.create(owner=None, size=10).uid
    writer = bay.uploads.writer(uid, owner=None)
    writer.write(b"123")
    bay.uploads.cancel(uid, owner=None)
    with pytest.raises(UploadTaken):
        writer.write(b"4")
    writer.drop()
    done = whole(bay)
    assert done.path.exists()
    bay.uploads.cancel(done.uploadUid, owner=None)
    for gone in (uid, done.uploadUid):
        with pytest.raises(UnknownUpload):
            bay.uploads.state(gone, owner=None)
    assert files(bay) == []
    bay.gc()


def test_uploads_expire_unless_they_are_published(bay: Forebay, let_pass: Callable[[Forebay, float], None]) -> None:
    """Open or complete, a day after their last bytes; then they are gone, and what had their content goes later."""
    half = bay.uploads.create(owner=None, size=10).uid
    with bay.uploads.writer(half, owner=None) as writer:
        writer.write(b"123")
        writer.close()
    chunks = send(bay, 0, b"abcd")
    done, published = whole(bay), whole(bay, DATA[::-1])
    published.publish("kept")
    for uid in (half, chunks, done.uploadUid):
        expires = bay.uploads.state(uid, owner=None).expires
        assert expires == pytest.approx(bay._clock() + 86400, abs=60)
    assert bay.uploads.state(published.uploadUid, owner=None).expires is None
    now = bay._clock() + 86401
    assert sorted(bay.uploads.expire(now=now)) == sorted([half, chunks, done.uploadUid])
    with pytest.raises(UnknownUpload):
        bay.uploads.get_upload(done.uploadUid)
    assert read(bay.uploads.get_upload(published.uploadUid)) == DATA[::-1]
    assert files(bay) == []


def test_an_expired_upload_is_told_as_such_until_it_is_swept(make_bay: Callable[..., Forebay]) -> None:
    """410 rather than 404: its client had a time, and it is over."""
    bay = make_bay(min_free_disk_bytes=0, upload_expiry_s=1e-6)
    uid = bay.uploads.create(owner=None, size=1).uid
    with pytest.raises(UploadExpired):
        bay.uploads.state(uid, owner=None)
    assert [(item.kind, item.name) for item in bay.gc(dry_run=True).items] == [("upload", uid)]
    assert [(item.kind, item.name) for item in bay.gc().items] == [("upload", uid)]
    with pytest.raises(UnknownUpload):
        bay.uploads.state(uid, owner=None)


def test_what_crashes_have_left_is_swept(bay: Forebay) -> None:
    """Files of uploads that nobody knows."""
    folder = bay.folder / "uploads"
    for name in ("partial/" + "0" * 32 + ".1.part", "partial/" + "0" * 32 + ".stage", "copies/" + "1" * 32):
        (folder / name).write_bytes(b"x")
    bay.uploads.expire()
    assert files(bay) == []


# --- what uploads become ------------------------------------------------------------------------------------


def test_a_path_is_a_file_of_the_callers_own(bay: Forebay) -> None:
    """It may be changed and moved: the content stays what it is."""
    upload = whole(bay)
    assert upload.path == upload.path
    assert upload.path.read_bytes() == DATA
    upload.path.write_bytes(b"changed")
    assert read(upload) == DATA
    assert bay.verify().rotten == []
    moved = upload.path.rename(bay.folder.parent / "moved")
    bay.uploads.expire(now=bay._clock() + 90_000)
    assert moved.read_bytes() == b"changed"


def test_each_publication_is_a_new_version(bay: Forebay) -> None:
    """With history, tags and retention; found by its name, and by that only."""
    name = "Karten/größe 50%?.tif"
    first = whole(bay, file_name="k.tif").publish(name, tag="v1")
    same = whole(bay, file_name="k.tif").publish(name)
    last = whole(bay, b"other").publish(name)
    assert first.version < same.version < last.version
    assert (last.status, last.previous_version) == ("ready", same.version)
    assert first.content_attributes.media_type == "image/tiff"
    assert bay.fetch(last.url).version == last.version
    assert bay.fetch("forebay:" + "Karten/gr%C3%B6%C3%9Fe%2050%25%3F.tif").id == last.id
    assert [version.version for version in bay.versions(last.url)] == [last.version, same.version]
    (request,) = bay.requests()
    assert (request.source, request.group_name) == ("upload", "default")
    with bay.open(last.url) as file:
        assert file.read() == b"other"


def test_what_was_never_uploaded_is_unknown_and_never_fetched(bay: Forebay) -> None:
    """Nothing is registered by asking for it."""
    with pytest.raises(UnknownRequest):
        bay.fetch("forebay:nothing")
    assert bay.requests() == []
    response = whole(bay).publish("kept")
    assert bay.fetch(response.url, refresh="always").version == response.version
    bay.configure(response.url, refresh="1s")
    assert bay.frontier.next_due_at() is None
    with pytest.raises(InvalidValue, match="not uploaded"):
        bay.frontier.ask(response.request_id)


def test_a_published_upload_goes_with_its_version(bay: Forebay) -> None:
    """What nothing has any more is swept, as with all content."""
    upload = whole(bay)
    response = upload.publish("kept")
    assert bay.uploads.get_upload(upload.uploadUid).state == "published"
    bay.delete(response.url)
    bay.catalog.purge_deleted(before=bay._clock() + 1, now=bay._clock())
    with pytest.raises(UnknownUpload):
        bay.uploads.get_upload(upload.uploadUid)
    assert [row.sha256 for row in bay.catalog.unreferenced(before=bay._clock() + 1)] == [SHA256]


def test_damaged_bytes_of_an_upload_are_not_given_out(bay: Forebay) -> None:
    """And the same bytes, uploaded again, mend it."""
    upload = whole(bay)
    path = bay.store.path(SHA256)
    path.chmod(0o600)
    path.write_bytes(DATA[:-1] + b"!")
    assert [rot.sha256 for rot in bay.verify().rotten] == [SHA256]
    with pytest.raises(forebay.ContentRotten):
        upload.open()
    with pytest.raises(forebay.ContentRotten):
        upload.publish("bad")
    whole(bay)
    assert read(upload) == DATA


# --- disks that fail, writers that are late -----------------------------------------------------------------


def test_what_a_failed_sync_may_have_lost_does_not_count(bay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells of it once: the next sync proves nothing, so the client sends those bytes again."""
    uid = bay.uploads.create(owner=None, size=len(DATA)).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(DATA[:1000])
        assert writer.close() == 1000
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(DATA[1000:5000])
        with monkeypatch.context() as patch:
            patch.setattr("forebay.content.partial.sync_file", refused)
            with pytest.raises(StorageFailed):
                writer.close()
    assert bay.uploads.state(uid, owner=None, settle=True).offset == 1000
    with bay.uploads.writer(uid, owner=None, offset=1000) as writer:
        writer.write(DATA[1000:])
        with monkeypatch.context() as patch:
            patch.setattr("forebay.content.partial.sync_file", refused)
            with pytest.raises(StorageFailed):
                writer.complete()
    with bay.uploads.writer(uid, owner=None, offset=1000) as writer:
        writer.write(DATA[1000:])
        upload = writer.complete()
    assert upload is not None
    assert (upload.sha256, read(upload)) == (SHA256, DATA)


def test_a_sync_that_fails_beside_the_writing_is_told(bay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the ones after it do not fail."""
    monkeypatch.setattr("forebay.uploads.writing._SYNC_BYTES", 1000)
    results = iter([True, False])
    sync = forebay.content.partial.sync_file
    uid = bay.uploads.create(owner=None, size=len(DATA)).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        monkeypatch.setattr(
            "forebay.content.partial.sync_file", lambda it: refused(it) if next(results, False) else sync(it)
        )
        writer.write(DATA[:2000])
        assert writer._syncing is not None
        writer._syncing.exception()
        with pytest.raises(StorageFailed):
            writer.write(DATA[2000:4000])
    assert bay.uploads.state(uid, owner=None, settle=True).offset == 0


def refused(_: int) -> None:
    raise OSError(errno.EIO, "refused")


def test_nothing_stays_open_of_a_takeover_that_fails(bay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it is tried on a disk that is full."""
    uid = bay.uploads.create(owner=None, size=len(DATA)).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(DATA[:1000])
        writer.close()
    before = len(list(Path("/dev/fd").iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr("forebay.content.partial.sync_file", refused)
        for _ in range(5):
            with pytest.raises(StorageFailed):
                bay.uploads.writer(uid, owner=None)
    assert len(list(Path("/dev/fd").iterdir())) == before
    assert bay.uploads.state(uid, owner=None, settle=True).offset == 1000


def test_a_copy_counts_as_soon_as_its_mark_is_there(bay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer was stopped in the middle of a write, and whoever copies what it has is killed between two names."""
    monkeypatch.setattr("forebay.uploads.files._LOCK_WAIT_S", 0.0)
    uid = bay.uploads.create(owner=None, size=len(DATA)).uid
    stopped = bay.uploads.writer(uid, owner=None)
    stopped.write(DATA[:1000])
    rename = Path.rename

    def killed(path: Path, target: Path) -> Path:
        if path.suffix == ".new":
            rename(path, target)
            raise KeyboardInterrupt
        return rename(path, target)

    with stopped._partial.owned():
        monkeypatch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            bay.uploads.writer(uid, owner=None)
        monkeypatch.setattr(Path, "rename", rename)
    assert bay.uploads.state(uid, owner=None, settle=True).offset == 1000
    with pytest.raises(UploadTaken):
        stopped.close()


def test_what_may_be_content_is_never_open_again(bay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stored it died before it said so; then the disk fails whoever goes on: no chunk is written to it."""
    uid = send(bay, 0, b"abcdefghi", chunkCount=1)
    with monkeypatch.context() as patch:
        patch.setattr(bay.uploads._rows, "finish", failed)
        with pytest.raises(StorageFailed):
            bay.uploads.get_upload(uid)
    with monkeypatch.context() as patch:
        patch.setattr("forebay.uploads.completion.sync_file", refused)
        with pytest.raises(StorageFailed):
            send(bay, 0, b"ABCDEFGHI", chunkCount=1, uploadUid=uid)
    with pytest.raises(UploadFinished):
        send(bay, 0, b"ABCDEFGHI", chunkCount=1, uploadUid=uid)
    assert read(bay.uploads.get_upload(uid)) == b"abcdefghi"


def failed(*_: object, **__: object) -> None:
    raise StorageFailed("the catalog", reason="refused")


def test_a_writer_that_is_late_says_no_length(bay: Forebay) -> None:
    """Nor does one whose upload was cancelled."""
    uid = bay.uploads.create(owner=None).uid
    late = bay.uploads.writer(uid, owner=None)
    late.write(b"abc")
    with bay.uploads.writer(uid, owner=None) as writer:
        with pytest.raises(UploadTaken):
            late.set_size(3)
        writer.write(b"def")
        writer.set_size(6)
        bay.uploads.cancel(uid, owner=None)
        with pytest.raises(UploadTaken):
            writer.set_size(6)
    late.drop()


def test_an_upload_that_is_written_for_long_does_not_expire(
    bay: Forebay, make_bay: Callable[..., Forebay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process is who lets uploads expire."""
    uid = bay.uploads.create(owner=None).uid
    other = make_bay(folder=bay.folder)
    with bay.uploads.writer(uid, owner=None) as writer:
        first = bay.uploads.state(uid, owner=None).expires
        assert first is not None
        monkeypatch.setattr("forebay.uploads.writing.time.monotonic", lambda: time.time() + 86400)
        writer.write(b"abc")
        assert other.uploads.expire(now=first) == []
        assert writer.write(b"def") == 6


def test_an_upload_without_a_length_may_fill_its_owners_room(make_bay: Callable[..., Forebay]) -> None:
    """What is reserved ahead is for convenience."""
    bay = make_bay(min_free_disk_bytes=0, max_upload_bytes_per_owner=1000)
    uid = bay.uploads.create(owner=None).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(bytes(1000))
        with pytest.raises(UploadQuota):
            writer.write(b"1")
        assert writer.close() == 1000


def test_parts_are_used_once(bay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else their bytes would be taken off the owner's room twice."""
    part = bay.uploads.create(owner=None, size=3, partial=True).uid
    with bay.uploads.writer(part, owner=None) as writer:
        writer.write(b"abc")
        writer.complete()
    finish = bay.uploads._rows.finish

    def late(*args: Any, **values: Any) -> Any:
        monkeypatch.setattr(bay.uploads._rows, "finish", finish)
        assert bay.uploads.concatenate([part], owner=None).is_complete
        return finish(*args, **values)

    monkeypatch.setattr(bay.uploads._rows, "finish", late)
    with pytest.raises(UploadTaken):
        bay.uploads.concatenate([part], owner=None)
    assert len(bay.uploads._rows.ids()) == 1


def test_a_private_copy_that_was_not_finished_goes_with_its_upload(bay: Forebay) -> None:
    """Whoever made it was killed."""
    upload = whole(bay)
    (bay.folder / "uploads" / "copies" / f"{upload.uploadUid}.1.1").touch()
    bay.uploads.cancel(upload.uploadUid, owner=None)
    assert files(bay) == []
    (bay.folder / "uploads" / "copies" / f"{upload.uploadUid}.1.1").touch()
    bay.uploads.expire()
    assert files(bay) == []


def test_a_part_that_is_there_twice_is_room_once(make_bay: Callable[..., Forebay]) -> None:
    """Of its owner's."""
    bay = make_bay(min_free_disk_bytes=0, max_upload_bytes_per_owner=1000)
    part = bay.uploads.create(owner=None, size=600, partial=True).uid
    with bay.uploads.writer(part, owner=None) as writer:
        writer.write(bytes(600))
        writer.complete()
    with pytest.raises(UploadQuota):
        bay.uploads.concatenate([part, part], owner=None)
    assert bay.uploads.concatenate([part], owner=None).size == 600


def test_no_upload_is_looked_for_among_all_files(bay: Forebay, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are: from its creation to its end its files are found by name."""

    def looked(*_: object) -> None:
        raise AssertionError("looked through the folder")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "glob", looked)
        uid = bay.uploads.create(owner=None, size=len(DATA)).uid
        for start in range(0, len(DATA), 50_000):
            assert bay.uploads.state(uid, owner=None, settle=True).offset == start
            with bay.uploads.writer(uid, owner=None, offset=start) as writer:
                writer.write(DATA[start : start + 50_000])
                writer.close()
        assert read(bay.uploads.get_upload(uid)) == DATA
    assert files(bay) == []


def test_takeovers_that_came_to_nothing_lose_nothing(bay: Forebay) -> None:
    """Not even many in a row, each killed before it had the file."""
    uid = bay.uploads.create(owner=None, size=len(DATA)).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(DATA[:1000])
        writer.close()
    for _ in range(10):
        with bay.uploads._rows.taking(uid, expires=time.time() + 1000) as taken:
            assert taken is not None
    assert bay.uploads.state(uid, owner=None).offset == 1000
    assert bay.uploads.state(uid, owner=None, settle=True).offset == 1000


def test_a_file_that_is_content_as_well_is_never_cut(bay: Forebay) -> None:
    """A crash of the machine between storing an upload and its commit may take its mark back: who goes on then does so
    in a file of its own."""
    uid = bay.uploads.create(owner=None, size=len(DATA)).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(DATA[:1000])
        writer.close()
    (part,) = (bay.folder / "uploads" / "partial").glob("*.part")
    with part.open("r+b") as file:
        file.write(DATA)
    content = bay.folder / "content" / SHA256
    content.hardlink_to(part)
    with bay.uploads.writer(uid, owner=None, offset=1000) as writer:
        assert content.read_bytes() == DATA
        writer.write(bytes(len(DATA) - 1000))
        upload = writer.complete()
    assert upload is not None
    assert read(upload) == DATA[:1000] + bytes(len(DATA) - 1000)
    assert content.read_bytes() == DATA


def test_what_does_not_match_is_there_all_the_same(bay: Forebay) -> None:
    """Its offset is told by whoever only looks, too."""
    uid = bay.uploads.create(owner=None, size=3, digests={"sha256": "0" * 64}).uid
    with bay.uploads.writer(uid, owner=None) as writer:
        writer.write(b"abc")
        with pytest.raises(UploadMismatch):
            writer.complete()
    assert bay.uploads.state(uid, owner=None).offset == 3


def test_what_a_dead_process_began_is_done_once(bay: Forebay) -> None:
    """Several look for it at once; the last one must not take an upload from who goes on with it by then."""
    uploads = bay.uploads
    uid = uploads.create(owner=None, size=2).uid
    with uploads._completion._having(uid):
        seen = uploads._seen(uid, None)  # what each of them sees; and then its holder is gone
    assert uploads.state(uid, owner=None).offset == 0
    with uploads.writer(uid, owner=None) as writer:
        assert uploads._completion.complete(seen, digests={}) is None
        writer.write(b"a")
        assert writer.close() == 1
