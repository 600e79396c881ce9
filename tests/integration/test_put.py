"""Files of this machine put into a folder: kept under a name, whatever happens to them meanwhile."""

import asyncio
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import forebay
from conftest import Child
from forebay import Forebay
from forebay.errors import DiskReserved, FileChanged, ForebayError, InvalidValue, UploadTooLarge
from forebay.reports import Sending
from origin import blob

# Beyond the steps in which a file is taken in.
LARGE = (64 << 20) + 5


def put_some(path: Path, size: int, seed: int = 0) -> bytes:
    """Write *size* bytes to *path*."""
    body = blob(size, seed)
    path.write_bytes(body)
    return body


@pytest.mark.parametrize("size", [0, 1, 300_000, LARGE])
def test_a_file_is_kept_under_its_name(bay: Forebay, tmp_path: Path, size: int) -> None:
    """It becomes a version with its bytes, its name and its type, and stays where it was, as it was."""
    path = tmp_path / "Übersicht 1.txt"
    body = put_some(path, size)
    heard: list[Sending] = []
    response = bay.put(path, tag="ab", progress=lambda _, sending: heard.append(sending))
    assert (response.status, response.url, response.tags) == ("ready", "forebay:%C3%9Cbersicht%201.txt", ["ab"])
    attributes = response.content_attributes
    assert (attributes.filename, attributes.media_type) == ("Übersicht 1.txt", "text/plain")
    with bay.open(response) as file:
        assert file.read() == body
    assert path.read_bytes() == body
    path.write_bytes(b"other")
    assert bay.path(response).read_bytes() == body
    assert max(sending.sent_bytes for sending in heard) == size
    assert heard[-1].state == "done"
    assert bay.usage().upload_bytes == 0


def test_each_put_is_a_version(bay: Forebay, tmp_path: Path) -> None:
    """The newest one is the latest; all are found by the name."""
    path = tmp_path / "a"
    made = []
    for number in range(2):  # as many as are kept of anything
        body = put_some(path, 1000, number)
        made.append(bay.put(path, name="data/ä b"))
        assert bay.path("forebay:data/ä b").read_bytes() == body
    assert [version.version for version in bay.versions("forebay:data/ä b")] == [
        response.version for response in reversed(made)
    ]


def test_a_stream_is_put(bay: Forebay) -> None:
    """What a binary file gives to its end, under the name that it is given."""
    body = blob(3_000_000)
    response = bay.put(io.BytesIO(body), name="from/a stream.bin")
    assert response.content_attributes.filename == "a stream.bin"
    assert bay.path(response).read_bytes() == body
    assert bay.path(bay.put(io.BytesIO(), name="none")).read_bytes() == b""


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("missing", {}),
        (".", {}),
        ("pipe", {}),
        ("a\0b", {}),
        ("a", {"name": ""}),
        ("a", {"name": "a\ud800"}),
        ("a", {"name": "a" * 9000}),
        ("a", {"tag": "!"}),
        (io.BytesIO(b"a"), {}),
    ],
    ids=["missing", "folder", "pipe", "nul", "empty", "surrogate", "long", "tag", "nameless"],
)
def test_what_cannot_be_put(make_bay: Callable[..., Forebay], tmp_path: Path, file: Any, options: Any) -> None:
    """Is refused by a sentence that names what is wrong, before anything is read."""
    (tmp_path / "a").write_bytes(b"a")
    os.mkfifo(tmp_path / "pipe")
    bay = make_bay()
    with pytest.raises(InvalidValue):
        bay.put(str(tmp_path / file) if isinstance(file, str) else file, **options)
    assert bay.requests() == []


@pytest.mark.parametrize(
    ("settings", "kind"),
    [({"max_upload_bytes": 10}, UploadTooLarge), ({"min_free_disk_bytes": 1 << 60}, DiskReserved)],
)
@pytest.mark.parametrize("as_stream", [False, True], ids=["file", "stream"])
def test_the_limits_of_uploads_hold(
    make_bay: Callable[..., Forebay], tmp_path: Path, settings: Any, kind: type[ForebayError], as_stream: bool
) -> None:
    """For what is put on this machine, too; nothing of it stays."""
    bay = make_bay(**settings)
    put_some(tmp_path / "a", 11)
    with pytest.raises(kind), (tmp_path / "a").open("rb") as stream:
        bay.put(stream if as_stream else tmp_path / "a", name="a")
    assert bay.usage().upload_bytes == 0
    assert bay.requests() == []


@pytest.mark.parametrize("size", [LARGE, LARGE + 3, 10], ids=["other bytes", "longer", "shorter"])
def test_a_file_that_is_written_meanwhile(bay: Forebay, tmp_path: Path, size: int) -> None:
    """Is not published, and nothing of it stays; once it is finished, it can be put."""
    path = tmp_path / "a"
    put_some(path, LARGE)
    before = path.stat().st_mtime_ns

    def write(_: str, sending: Sending) -> None:
        if sending.state == "sending" and path.stat().st_mtime_ns == before:
            put_some(path, size, 1)
            os.utime(path, ns=(before + 1, before + 1))  # however coarse the clock of files is

    with pytest.raises(FileChanged, match="changed while it was read"):
        bay.put(path, progress=write)
    assert bay.usage().upload_bytes == 0
    assert bay.requests() == []
    assert bay.path(bay.put(path)).read_bytes() == blob(size, 1)


def test_ctrl_c_leaves_nothing(bay: Forebay, tmp_path: Path) -> None:
    """What was copied so far goes."""
    put_some(tmp_path / "a", LARGE)

    def interrupt(_: str, __: Sending) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bay.put(tmp_path / "a", progress=interrupt)
    assert bay.usage().upload_bytes == 0


def test_a_killed_process_leaves_what_expires(
    make_bay: Callable[..., Forebay], tmp_path: Path, spawn: Callable[..., Child]
) -> None:
    """kill -9 in the middle: nothing is published, the same file can be put at once, and the rest goes in a day."""
    body = put_some(tmp_path / "a", LARGE)
    child = spawn(
        "import forebay\n"
        "def stop(file, sending):\n"
        "    say(sent=sending.sent_bytes)\n"
        "    sys.stdin.read()\n"
        "forebay.open(ask['bay']).put(ask['file'], progress=stop)\n",
        bay=tmp_path / "bay", file=tmp_path / "a",
    )  # fmt: skip
    child.wait_for(lambda said: said)
    child.kill()
    bay = make_bay()
    assert bay.requests() == []
    response = bay.put(tmp_path / "a")
    assert bay.usage().upload_bytes > 0
    bay.uploads.expire(now=time.time() + 2 * 86400)
    assert bay.usage().upload_bytes == 0
    assert bay.path(response).read_bytes() == body


def test_put_from_an_event_loop(tmp_path: Path) -> None:
    """The async face does the same."""
    body = put_some(tmp_path / "a", 1000)

    async def put() -> bytes:
        async with forebay.aopen(tmp_path / "bay") as bay:
            response = await bay.put(tmp_path / "a", name="x", tag="ab")
            assert response.tags == ["ab"]
            return (await bay.path("forebay:x")).read_bytes()

    assert asyncio.run(put()) == body
