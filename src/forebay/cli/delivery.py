"""Where `forebay get` puts content: the store's own path, stdout, a file, or files in a folder."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import sys
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from forebay.cli.show import PipeClosed
from forebay.errors import DiskFull, ForebayError, InvalidValue, StorageFailed

# One call moves at most so much: Ctrl-C is noticed between two.
_PIECE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class InStore:
    """Nothing is copied; the path in the store is named."""


@dataclass(frozen=True, slots=True)
class ToStdout:
    """The bytes, one content after the other."""


@dataclass(frozen=True, slots=True)
class ToFile:
    """A copy at *path*."""

    path: Path


@dataclass(frozen=True, slots=True)
class ToFolder:
    """Copies in *path* under the names of their versions; *taken* are those that this run has given out."""

    path: Path
    taken: set[str] = field(default_factory=set)

    def place(self, filename: str) -> Path:
        """Where content of this name goes: numbered (``a-2.txt``) when another one of this run has the name.

        A file of an earlier run is replaced, so that the same command refreshes the same files.
        """
        stem, suffix = os.path.splitext(filename)  # noqa: PTH122 - a name, not a path
        name, number = filename, 1
        # macOS and Windows take names that differ in case or normal form for one.
        while (key := unicodedata.normalize("NFC", name).casefold()) in self.taken:
            number += 1
            name = f"{_shortened(stem, suffix)}-{number}{suffix}"
        self.taken.add(key)
        return self.path / name


Target = InStore | ToStdout | ToFile | ToFolder


def _shortened(stem: str, suffix: str) -> str:
    """*stem* with room for a number within the 255 bytes of a file name."""
    room = 255 - len(suffix.encode()) - 8
    return stem.encode()[:room].decode(errors="ignore")


def parse_target(output: str | None, *, urls: int) -> Target:
    """What ``-o`` says, checked before anything is fetched. Raises `InvalidValue`."""
    if output is None:
        return InStore()
    if output in ("-", "/dev/stdout"):
        return ToStdout()
    path = Path(output)
    if path.is_dir():
        return ToFolder(path)
    if output.endswith("/"):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(path, error) from error
        return ToFolder(path)
    if urls > 1:
        raise InvalidValue("-o", expected=f"a folder, as in {output}/, for several URLs", got=output)
    if not path.parent.is_dir():
        raise InvalidValue("-o", expected="a file in a folder that exists", got=output)
    return ToFile(path)


def write_to_stdout(source: BinaryIO) -> None:
    """The bytes of *source* on stdout. Raises `PipeClosed`."""
    try:
        sys.stdout.flush()
        shutil.copyfileobj(source, sys.stdout.buffer, 1024 * 1024)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise PipeClosed from None
    except OSError as error:
        raise _cannot_write(Path("/dev/stdout"), error) from error


def write_to_file(source: BinaryIO, path: Path) -> None:
    """A copy of *source* at *path*: all of it or what was there before, with the mode that the umask gives."""
    try:
        if path.exists() and not path.is_file():
            # A device or a pipe is written to, not replaced: /dev/null has to stay what it is.
            with path.open("wb") as target:
                shutil.copyfileobj(source, target, 1024 * 1024)
            return
        # Through a symbolic link: the link stays, what it names is replaced.
        _replace(source, Path(os.path.realpath(path)))
    except OSError as error:
        raise _cannot_write(path, error) from error


def _replace(source: BinaryIO, path: Path) -> None:
    temporary = path.with_name(f".forebay-{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as target:
            _copy(source, target)
            target.flush()
            # Before the rename: else a crash of the machine may leave the new name without its bytes.
            os.fsync(target.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _copy(source: BinaryIO, target: BinaryIO) -> None:
    """In the kernel where that is possible: 0.39 s a GiB, and nothing at all where files can share blocks."""
    if hasattr(os, "copy_file_range"):
        try:
            while os.copy_file_range(source.fileno(), target.fileno(), _PIECE_BYTES):
                pass
            return
        except io.UnsupportedOperation:
            pass  # a source that is no file
        except OSError as error:
            # Other file systems, old kernels, FUSE: the descriptors stand where it stopped.
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF):
                raise
    shutil.copyfileobj(source, target, 1024 * 1024)


def _cannot_write(path: Path, error: OSError) -> ForebayError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(str(path.parent))
    reason = (error.strerror or str(error)).lower()
    if isinstance(
        error, FileNotFoundError | FileExistsError | NotADirectoryError | PermissionError | IsADirectoryError
    ):
        return InvalidValue("-o", expected=f"a path that can be written ({reason})", got=str(path))
    return StorageFailed(f"writing {path}", reason=reason)
