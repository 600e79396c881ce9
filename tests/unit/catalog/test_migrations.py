"""The schema's history: each revision leads to the next, and a folder of today needs no Alembic."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.pool import NullPool

from forebay.catalog import migrate
from forebay.catalog.catalog import Catalog
from forebay.catalog.database import Database
from forebay.catalog.schema import HEAD, metadata
from forebay.errors import CatalogTooNew, StorageFailed
from forebay.models import RequestSpec

NOW = 1_800_000_000.0
SPEC = RequestSpec(url="https://data.example/set.bin")


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """An empty database, as `forebay.catalog.database` hands it to the migrations."""
    engine = create_engine(f"sqlite:///{tmp_path / 'm.sqlite'}", isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


def version_of(path: Path, *, set_to: str | None = None) -> str:
    engine = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        if set_to is not None:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = ?", (set_to,))
        return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())


def to(connection: Connection, revision: str) -> None:
    """Downgrade, as a developer would."""
    config = migrate._config()
    config.attributes["connection"] = connection
    command.downgrade(config, revision)


# A row in each table of 0001, with a value in each column that matters to someone who upgrades.
_WRITTEN_BY_0001 = """
INSERT INTO requests (id, signature, url, http_method, http_header_fields, source, group_name, description,
    documentation_link, validation_hash_type, cache_configuration, host, first_requested_at, latest_requested_at,
    checked_at, confirmed_at, failures, next_due_at, last_version, fence)
    VALUES ('r1', 's1', 'https://data.example/set.bin', 'get', '{"Accept": "text/csv"}', 'http', 'weather', 'rain',
    '', 'sha256', '{}', 'data.example:443', 1800000000000000, 1800000000000001, 1800000000000002,
    1800000000000003, 2, 1800000000000004, '20270115T080000000000Z', 7);
INSERT INTO contents (sha256, size_bytes, stored_at) VALUES ('c1', 8, 1800000000000000);
INSERT INTO responses (id, request_id, version, status, requested_at, cached_at, pinned, pinned_until,
    content_sha256, content_hash_hex, media_type, etag, size_bytes, filename, downloaded_bytes, duration_s,
    attempts, resumed_bytes, final_url, http_status)
    VALUES ('v1', 'r1', '20270115T080000000000Z', 'ready', 1800000000000000, 1800000000000005, 1, 1900000000000000,
    'c1', 'c1', 'text/csv', '"e1"', 8, 'set.bin', 8, 0.25, 3, 4, 'https://data.example/set.bin', 200);
INSERT INTO tags (response_id, tag) VALUES ('v1', 'published');
INSERT INTO leases (request_id, fence, owner, beat, response_id) VALUES ('r1', 7, 'o1', 3, 'v2');
INSERT INTO slots (host, owner, held, waiting_since) VALUES ('data.example:443', 'o1', 1, 1800000000000006);
"""


@pytest.fixture
def folder_of_0001(tmp_path: Path) -> Path:
    """A catalog as the first release wrote it, with a row in each table."""
    path = tmp_path / "catalog.sqlite"
    engine = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        for statement in _WRITTEN_BY_0001.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    return path


def rows(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: [dict(row) for row in database.execute(f"SELECT * FROM {name}")] for name in names}


# --- the revisions ------------------------------------------------------------------------------------------


def test_the_migrations_lead_to_the_schema(connection: Connection) -> None:
    """Table by table, column by column, with types, defaults, indexes and constraints."""
    migrate.upgrade(connection)
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True, "render_as_batch": True}
    )
    assert compare_metadata(context, metadata) == []
    assert tables(connection) == {table.name for table in metadata.sorted_tables} | {"alembic_version"}


def test_partial_indexes_are_partial_in_the_database_too(connection: Connection) -> None:
    """Alembic does not compare their conditions: only what is due, passing or deleted is in them."""
    migrate.upgrade(connection)
    made = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type='index' AND sql IS NOT NULL")
    found = {name: sql.partition(" WHERE ")[2] for name, sql in made}
    expected = {}
    for table in metadata.sorted_tables:
        for index in table.indexes:
            where = index.dialect_options["sqlite"]["where"]
            compiled = "" if where is None else str(where.compile(compile_kwargs={"literal_binds": True}))
            expected[index.name] = compiled.replace(f"{table.name}.", "")
    assert found == expected


def test_a_delete_cascades_as_in_the_schema(connection: Connection) -> None:
    """Nor does it compare what a foreign key does at a delete."""
    migrate.upgrade(connection)
    for table in metadata.sorted_tables:
        found = {
            key["name"]: (key["referred_table"], key["options"].get("ondelete"))
            for key in inspect(connection).get_foreign_keys(table.name)
        }
        assert found == {
            key.constraint.name: (key.column.table.name, key.ondelete)
            for key in table.foreign_keys
            if key.constraint is not None
        }


def test_head_is_the_newest_revision() -> None:
    """`HEAD` is what a folder of today says, so that it needs no Alembic."""
    script = ScriptDirectory.from_config(migrate._config())
    assert script.get_heads() == [HEAD]
    assert HEAD in migrate.known_revisions()
    assert migrate.known_revisions() == {revision.revision for revision in script.walk_revisions()}


def test_each_revision_can_be_taken_back_and_done_again(connection: Connection) -> None:
    """Down to nothing and up again gives the same schema."""
    migrate.upgrade(connection)
    first = connection.exec_driver_sql("SELECT type, name, sql FROM sqlite_master ORDER BY name").all()
    to(connection, "base")
    assert tables(connection) == {"alembic_version"}
    migrate.upgrade(connection)
    assert connection.exec_driver_sql("SELECT type, name, sql FROM sqlite_master ORDER BY name").all() == first


def test_a_migration_that_fails_leaves_the_folder_as_it_was(connection: Connection) -> None:
    """One transaction: all or nothing."""
    connection.exec_driver_sql("CREATE TABLE slots (host TEXT)")  # in the way of the middle of the first one
    with pytest.raises(Exception, match="slots"):
        migrate.upgrade(connection)
    assert tables(connection) == {"slots"}
    connection.exec_driver_sql("DROP TABLE slots")
    migrate.upgrade(connection)
    assert "requests" in tables(connection)


# --- from each release to this one --------------------------------------------------------------------------


def test_a_folder_of_0001_keeps_everything(folder_of_0001: Path) -> None:
    """Opening it adds the tables of tokens and uploads and, to each version, the generation 1; no value is lost."""
    before = rows(folder_of_0001)
    Database(folder_of_0001).close()
    after = rows(folder_of_0001)
    assert after.pop("alembic_version") == [{"version_num": HEAD}]
    assert [after.pop(name) for name in ("tokens", "uploads", "upload_chunks")] == [[], [], []]
    assert [row.pop("generation") for row in after["responses"]] == [1]
    before.pop("alembic_version")
    assert after == before
    assert all(before.values())  # a row in each table: else nothing was shown


def test_a_folder_of_0001_can_be_used(folder_of_0001: Path) -> None:
    """What it has is found, and constraints that were there still hold."""
    database = Database(folder_of_0001)
    catalog = Catalog(database)
    (request,) = catalog.list_requests(group="weather")
    (version,) = catalog.versions(request.id, now=NOW)
    assert (version.tags, version.pinned, version.content_attributes.sha256) == (["published"], True, "c1")
    with pytest.raises(StorageFailed, match="UNIQUE"), database.write(durable=True) as db:
        db.exec_driver_sql(
            "INSERT INTO responses (id, request_id, version, status, requested_at)"
            " VALUES ('v2', 'r1', '20270115T080000000000Z', 'ready', 1)"
        )
    database.close()


def test_an_upgrade_that_fails_leaves_the_folder_as_0001_wrote_it(folder_of_0001: Path) -> None:
    """All or nothing, and the next try succeeds."""
    with closing(sqlite3.connect(folder_of_0001)) as database:
        database.execute("CREATE TABLE tokens (in_the_way TEXT)")
    before = rows(folder_of_0001)
    with pytest.raises(StorageFailed, match="tokens"):
        Database(folder_of_0001)
    assert rows(folder_of_0001) == before
    assert version_of(folder_of_0001) == "0001"
    with closing(sqlite3.connect(folder_of_0001)) as database:
        database.execute("DROP TABLE tokens")
    Database(folder_of_0001).close()
    assert version_of(folder_of_0001) == HEAD


# --- opening ------------------------------------------------------------------------------------------------


def test_a_new_folder_is_made_at_head_in_wal_mode(tmp_path: Path) -> None:
    """Readers and a writer do not wait for each other; foreign keys hold."""
    path = tmp_path / "catalog.sqlite"
    database = Database(path)
    with database.read() as db:
        assert db.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert db.exec_driver_sql("PRAGMA foreign_keys").scalar_one() == 1
    database.close()
    assert version_of(path) == HEAD


def test_what_was_stored_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    """By the same process or the next."""
    path = tmp_path / "catalog.sqlite"
    ids = []
    for _ in range(2):
        database = Database(path)
        ids.append(Catalog(database).find_or_create([SPEC], now=NOW)[0].request.id)
        database.close()
    assert ids[0] == ids[1]


def test_a_database_without_a_revision_is_brought_to_head(tmp_path: Path) -> None:
    """An empty file, and an empty version table: a process was killed before its first migration."""
    for name in ("empty", "unversioned"):
        path = tmp_path / name / "catalog.sqlite"
        path.parent.mkdir()
        path.touch()
        if name == "unversioned":
            engine = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT", poolclass=NullPool)
            with engine.connect() as connection:
                connection.exec_driver_sql(
                    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"
                )
        Database(path).close()
        assert version_of(path) == HEAD


def test_a_folder_of_a_newer_forebay_is_refused_and_left_alone(tmp_path: Path) -> None:
    """The error names both revisions and the way out; nothing is written."""
    path = tmp_path / "catalog.sqlite"
    Database(path).close()
    version_of(path, set_to="9999")
    before = path.read_bytes()
    with pytest.raises(CatalogTooNew, match="upgrade Forebay") as caught:
        Database(path)
    assert (caught.value.found, caught.value.known) == ("9999", HEAD)
    assert path.read_bytes() == before
    assert version_of(path) == "9999"


def test_a_file_that_is_no_database_is_an_error_of_the_storage(tmp_path: Path) -> None:
    """It is not overwritten."""
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"something else entirely, and long enough to be looked at" * 100)
    before = path.read_bytes()
    with pytest.raises(StorageFailed, match="not a database"):
        Database(path)
    assert path.read_bytes() == before


def test_opening_twice_does_not_import_alembic(tmp_path: Path) -> None:
    """It takes 0.3 s, and only a new or an old folder needs it."""
    script = f"""
import sys
from pathlib import Path
from forebay.catalog.database import Database
Database(Path({str(tmp_path / "catalog.sqlite")!r})).close()
print("alembic" in sys.modules)
"""
    said = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    assert said == ["True", "False"]


def test_ten_processes_that_open_a_new_folder_at_once_all_can_use_it(tmp_path: Path) -> None:
    """One of them makes it; each registers its own Request and the common one."""
    path = tmp_path / "catalog.sqlite"
    script = f"""
import sys
from pathlib import Path
from forebay.catalog.catalog import Catalog
from forebay.catalog.database import Database
from forebay.models import RequestSpec
print("ready", flush=True)
number = sys.stdin.readline().strip()
database = Database(Path({str(path)!r}))
specs = [RequestSpec(url="https://data.example/" + name) for name in ("set.bin", number)]
print(Catalog(database).find_or_create(specs, now={NOW})[0].request.id, flush=True)
database.close()
"""
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for number, child in enumerate(children):
        assert child.stdin is not None
        child.stdin.write(f"{number}\n")
        child.stdin.flush()
    ended = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0] * 10, [stderr for _, stderr in ended]
    assert len({stdout for stdout, _ in ended}) == 1
    database = Database(path)
    assert len(Catalog(database).list_requests()) == 11
    database.close()
    assert version_of(path) == HEAD
