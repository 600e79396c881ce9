"""The content cache of a client: by digest, resumable, verified, shared, within its bounds."""

import hashlib
import os
import stat
from pathlib import Path

import pytest

from forebay.client.cache import ContentCache, Leftover, Part
from forebay.errors import ContentRotten, DiskFull, StorageFailed
from origin import blob


@pytest.fixture
def cache(tmp_path: Path) -> ContentCache:
    return ContentCache(tmp_path / "cache", max_bytes=1 << 30)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def held(cache: ContentCache, key: str) -> Part:
    part = cache.begin(key)
    assert part is not None
    return part


def put(cache: ContentCache, data: bytes, *, used_at: int | None = None) -> Path:
    part = held(cache, sha256_of(data))
    part.restart('"1"')
    part.write(data)
    path = part.finish(sha256_of(data))
    part.close()
    if used_at is not None:
        os.utime(path, ns=(used_at, used_at))
    return path


def names(cache: ContentCache) -> set[str]:
    return {path.name for path in (cache.folder / "content").iterdir()}


def test_what_was_brought_is_there(cache: ContentCache) -> None:
    """By its digest, read only, for the user alone, and nothing else is left."""
    data = blob(300_000)
    path = put(cache, data)
    assert cache.path(sha256_of(data), size_bytes=len(data)) == path
    assert path.read_bytes() == data
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list((cache.folder / "partial").iterdir()) == []


def test_nothing_is_there_before(cache: ContentCache) -> None:
    """A digest that is unknown is None, also for opening."""
    assert cache.path("ab" * 32) is None
    assert cache.open("ab" * 32) is None


@pytest.mark.parametrize("name", ["../../etc/passwd", "AB" * 32, "ab" * 31, "", "ab" * 32 + "\n"])
def test_a_name_of_a_server_is_no_path(cache: ContentCache, name: str) -> None:
    """Only a SHA-256 in hex is a name here."""
    with pytest.raises(ContentRotten):
        cache.path(name)


def test_content_of_another_size_is_dropped(cache: ContentCache) -> None:
    """Somebody has cut it: it is not there any more."""
    path = put(cache, b"hello")
    path.chmod(0o600)
    path.write_bytes(b"hel")
    assert cache.path(sha256_of(b"hello"), size_bytes=5) is None
    assert not path.exists()


def test_what_is_not_its_digest_is_dropped(cache: ContentCache) -> None:
    """It never becomes content, and is not resumed."""
    with pytest.raises(ContentRotten, match=sha256_of(b"other")):
        part = held(cache, "k")
        part.restart('"1"')
        part.write(b"other")
        part.finish(sha256_of(b"hello"))
    part.close()
    assert names(cache) == set()
    with_nothing = held(cache, "k")
    assert with_nothing.leftover() is None
    with_nothing.close()


def test_what_landed_is_resumed(cache: ContentCache) -> None:
    """By the next one, in another process for all it knows, with the digest of all of it."""
    data = blob(3_000_000)
    part = held(cache, "k")
    part.restart('"v.1"')
    part.write(data[:2_500_000])
    part.close()
    part = held(cache, "k")
    leftover = part.leftover()
    assert leftover == Leftover(2_500_000, '"v.1"')
    part.resume(leftover)
    part.write(data[2_500_000:])
    assert part.finish(sha256_of(data)).read_bytes() == data
    part.close()


def test_what_has_no_tag_is_not_resumed(cache: ContentCache) -> None:
    """Without a strong ETag nobody can say whether the rest belongs to it."""
    part = held(cache, "k")
    part.restart(None)
    part.write(b"hello")
    part.close()
    part = held(cache, "k")
    assert part.leftover() is None
    part.close()


def test_starting_over_forgets_the_tag_first(cache: ContentCache) -> None:
    """Bytes never lie beside the tag of others, and the digest is that of the new ones."""
    part = held(cache, "k")
    part.restart('"v.1"')
    part.write(b"old bytes")
    part.restart('"v.2"')
    part.write(b"new")
    part.close()
    part = held(cache, "k")
    assert part.leftover() == Leftover(3, '"v.2"')
    part.restart(None)
    part.write(b"new")
    assert part.finish(sha256_of(b"new")).read_bytes() == b"new"
    part.close()


def test_one_brings_it_at_a_time(cache: ContentCache, tmp_path: Path) -> None:
    """Others get None, in this process or another; or one beside, which begins anew and is left to nobody."""
    part = held(cache, "k")
    part.restart('"1"')
    part.write(b"hel")
    assert cache.begin("k") is None
    assert ContentCache(tmp_path / "cache", max_bytes=1).begin("k") is None
    beside = cache.begin("k", beside=True)
    assert beside is not None
    assert beside.leftover() is None
    beside.restart('"1"')
    beside.write(b"he")
    beside.close()
    part.close()
    assert len(list((cache.folder / "partial").iterdir())) == 2  # the first one and its tag
    held(cache, "k").close()


def test_one_beside_becomes_content_too(cache: ContentCache) -> None:
    """Whoever is first makes the content; the other one replaces it by the same."""
    first, second = held(cache, "k"), cache.begin("k", beside=True)
    assert second is not None
    for part in (first, second):
        part.restart(None)
        part.write(b"hello")
        part.finish(sha256_of(b"hello"))
        part.close()
    assert names(cache) == {sha256_of(b"hello")}
    assert list((cache.folder / "partial").iterdir()) == []


def test_a_reader_reads_on(cache: ContentCache) -> None:
    """Its descriptor stays good when the part is finished, closed and evicted."""
    part = held(cache, "k")
    part.restart(None)
    part.write(b"hello")
    descriptor = part.reader()
    part.finish(sha256_of(b"hello")).unlink()
    part.close()
    assert os.pread(descriptor, 10, 0) == b"hello"
    os.close(descriptor)


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    """Beyond the cap, by time of use, which looking counts as; what came just now stays."""
    cache = ContentCache(tmp_path / "cache", max_bytes=1000)
    put(cache, b"a" * 300, used_at=10)
    put(cache, b"b" * 300, used_at=20)
    put(cache, b"c" * 300, used_at=30)
    assert cache.path(sha256_of(b"a" * 300)) is not None
    put(cache, b"d" * 300)
    assert names(cache) == {sha256_of(letter * 300) for letter in (b"a", b"c", b"d")}


def test_what_is_larger_than_the_cap_is_there_until_the_next(tmp_path: Path) -> None:
    """Whoever asked for it gets it."""
    cache = ContentCache(tmp_path / "cache", max_bytes=1000)
    large = put(cache, b"a" * 5000)
    assert large.exists()
    os.utime(large, ns=(0, 0))
    put(cache, b"b")
    assert names(cache) == {sha256_of(b"b")}


def test_an_open_file_outlives_its_eviction(tmp_path: Path) -> None:
    """What is being read stays readable."""
    cache = ContentCache(tmp_path / "cache", max_bytes=1000)
    put(cache, b"a" * 900, used_at=10)
    file = cache.open(sha256_of(b"a" * 900), size_bytes=900)
    assert file is not None
    os.utime(cache.folder / "content" / sha256_of(b"a" * 900), ns=(0, 0))
    put(cache, b"b" * 900)
    assert names(cache) == {sha256_of(b"b" * 900)}
    with file:
        assert file.read() == b"a" * 900


def test_partial_files_that_nobody_resumes_go(tmp_path: Path) -> None:
    """After a week; not one that is being brought, however slowly."""
    cache = ContentCache(tmp_path / "cache", max_bytes=1000)
    for key in ("left", "held"):
        part = held(cache, key)
        part.restart('"1"')
        part.write(b"hello")
        if key == "left":
            part.close()
    for path in (cache.folder / "partial").iterdir():
        os.utime(path, ns=(0, 0))
    put(cache, b"a" * 2000)
    assert len(list((cache.folder / "partial").iterdir())) == 2
    part.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """Errors of the operating system are ours, and name the folder."""
    (tmp_path / "cache").write_text("a file")
    cache = ContentCache(tmp_path / "cache", max_bytes=1)
    assert cache.path("ab" * 32) is None
    with pytest.raises(StorageFailed, match="content cache"):
        cache.begin("k")


def test_a_full_disk(cache: ContentCache) -> None:
    """It is told as such."""
    part = held(cache, "k")
    part.restart(None)
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, part._descriptor)
    os.close(full)
    with pytest.raises(DiskFull):
        part.write(b"hello")
    part.close()
