"""The SQLite adapter: connections, transactions, durability, and errors mapped once.

Reads take a connection from a small pool; writes go through one connection, one at a time, each a
``BEGIN IMMEDIATE`` transaction, so that two processes on one folder queue instead of failing midway.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from forebay.catalog.schema import HEAD
from forebay.errors import CatalogTooNew, DiskFull, StateError, StorageError, StorageFailed

# Longer than any transaction of ours; twenty processes that start at once queue on it.
BUSY_TIMEOUT_MS = 60_000
_IDLE_CONNECTIONS = 8


class Database:
    """The catalog's database in one SQLite file, made and migrated when needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._engine = create_engine(
            f"sqlite:///{path}",
            poolclass=NullPool,
            connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
            hide_parameters=True,  # registered credentials are among them
            isolation_level="AUTOCOMMIT",  # transactions are begun here, by their names
        )
        event.listen(self._engine, "connect", _set_up_connection)
        self._idle: deque[Connection] = deque()
        self._write_lock = threading.Lock()
        self._writing_thread: int | None = None
        self._durable = False
        self._closed = False
        with mapped_errors(path):
            # Registered credentials are in it: never readable for others, whatever the folder is.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._prepare()
            self._writer = self._engine.connect()
            self._writer.exec_driver_sql("PRAGMA synchronous=NORMAL")

    def close(self) -> None:
        """Close every connection; the object is of no use afterwards."""
        with self._write_lock:
            self._closed = True
            self._writer.close()
            while self._idle:
                self._idle.pop().close()
            self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for one or more reads, each a snapshot of its own."""
        self._check_open()
        with mapped_errors(self._path):
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._engine.connect()
            try:
                yield connection
            finally:
                # Kept for whoever is next, whichever thread that is: threads come and go.
                if self._closed or len(self._idle) >= _IDLE_CONNECTIONS:
                    connection.close()
                else:
                    self._idle.append(connection)

    @contextmanager
    def write(self, *, durable: bool) -> Iterator[Connection]:
        """One transaction: all or nothing, seen by others when the block ends.

        *durable*: on return it survives a crash of the machine (``synchronous=FULL``); else a crash of the
        machine may take it back, with all that came after it, but never damages the file. Inside another
        ``write`` of the same thread it joins that transaction.
        """
        if self._writing_thread == threading.get_ident():
            yield self._writer
            return
        with self._write_lock, mapped_errors(self._path):
            self._check_open()
            if durable is not self._durable:
                self._writer.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._writer.exec_driver_sql("BEGIN IMMEDIATE")
            self._writing_thread = threading.get_ident()
            try:
                yield self._writer
                self._writer.exec_driver_sql("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            finally:
                self._writing_thread = None

    def _check_open(self) -> None:
        if self._closed:
            raise StateError("this Forebay is closed")

    def _roll_back(self) -> None:
        # A full disk may have rolled back already; asking again would hide the first error.
        driver = self._writer.connection.dbapi_connection
        if driver is not None and driver.in_transaction:
            self._writer.exec_driver_sql("ROLLBACK")

    def _prepare(self) -> None:
        if self._revision() == HEAD:
            return
        with (self._path.parent / "migrate.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._migrate(lock)

    def _migrate(self, _lock: IO[str]) -> None:
        """Bring the schema to HEAD; the caller holds the lock that others wait on."""
        found = self._revision()
        if found == HEAD:
            return  # another process was first
        # Imported here: it takes 0.3 s, and only a new or an old folder needs it.
        from forebay.catalog.migrate import known_revisions, upgrade

        if found is not None and found not in known_revisions():
            raise CatalogTooNew(found=found, known=HEAD)
        with self._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            upgrade(connection)

    def _revision(self) -> str | None:
        if not self._path.exists():
            return None
        with self._engine.connect() as connection:
            found = connection.exec_driver_sql(
                "SELECT 1 FROM sqlite_master WHERE type='table' AND name='alembic_version'"
            ).first()
            if found is None:
                return None
            row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
            return None if row is None else str(row[0])


def _set_up_connection(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA fullfsync=ON")  # macOS: fsync alone leaves the bytes in the drive's cache
    cursor.execute("PRAGMA temp_store=MEMORY")
    cursor.execute("PRAGMA cache_size=-16000")
    cursor.close()


@contextmanager
def mapped_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as `StorageError`s."""
    try:
        yield
    except (DBAPIError, sqlite3.Error, OSError) as error:
        raise _mapped(path, error) from error


def _mapped(path: Path, error: DBAPIError | sqlite3.Error | OSError) -> StorageError:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    code = getattr(cause, "sqlite_errorcode", None)
    full = code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
    if not full and code is not None and code & 0xFF in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        with contextlib.suppress(OSError):
            full = shutil.disk_usage(path.parent).free == 0
    if full or getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(str(path.parent))
    return StorageFailed(f"the catalog {path}", reason=str(cause))
