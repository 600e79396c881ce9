"""Names of copies in a folder, and copies that are whole or not there."""

import io
from pathlib import Path

import pytest

from forebay.cli.delivery import InStore, ToFile, ToFolder, ToStdout, parse_target, write_to_file
from forebay.errors import InvalidValue


def test_targets(tmp_path: Path) -> None:
    """No -o, a dash, an existing folder, a new folder with a slash, and a file."""
    assert parse_target(None, urls=2) == InStore()
    assert parse_target("-", urls=2) == ToStdout()
    assert parse_target("/dev/stdout", urls=2) == ToStdout()
    assert parse_target(str(tmp_path), urls=2) == ToFolder(tmp_path)
    assert parse_target(f"{tmp_path}/new/", urls=2) == ToFolder(tmp_path / "new")
    assert parse_target(f"{tmp_path}/file", urls=1) == ToFile(tmp_path / "file")
    with pytest.raises(InvalidValue, match=r"^-o: expected a folder, as in .*/file/, for several URLs"):
        parse_target(f"{tmp_path}/file", urls=2)


def test_equal_names_are_numbered(tmp_path: Path) -> None:
    """By what case-insensitive and normalising file systems call equal, before the extension."""
    folder = ToFolder(tmp_path)
    names = ["a.tar.gz", "A.TAR.GZ", "a.tar-2.gz", "caf\u00e9", "cafe\u0301", ".profile", ".profile"]
    assert [folder.place(name).name for name in names] == [
        "a.tar.gz", "A.TAR-2.GZ", "a.tar-2-2.gz", "caf\u00e9", "cafe\u0301-2", ".profile", ".profile-2",
    ]  # fmt: skip


def test_a_numbered_name_is_not_too_long(tmp_path: Path) -> None:
    """A name of 255 bytes makes room for its number; the extension stays."""
    folder, name = ToFolder(tmp_path), "é" * 125 + "x.txt"
    assert folder.place(name).name == name
    numbered = folder.place(name).name
    assert numbered.endswith("-2.txt")
    assert len(numbered.encode()) <= 255


def test_a_source_without_a_descriptor(tmp_path: Path) -> None:
    """What the kernel cannot copy is copied through memory."""
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(io.UnsupportedOperation):
        io.BytesIO().fileno()
    write_to_file(io.BytesIO(b"new"), tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"new"


def test_a_source_that_breaks(tmp_path: Path) -> None:
    """The file of before stays, and nothing is left beside it."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise KeyboardInterrupt

    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_to_file(Broken(), tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]
