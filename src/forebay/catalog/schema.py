"""The catalog's tables: one schema for SQLite and PostgreSQL.

Times are whole microseconds since the epoch (``BigInteger``): exact in both databases, and as a float of
seconds they still round-trip exactly. JSON is text in canonical form, read back by the models.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    select,
    text,
)

# The newest migration; a folder that says the same needs no Alembic at all.
HEAD = "0003"

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    }
)

requests = Table(
    "requests",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("signature", String(64), nullable=False),
    Column("url", Text, nullable=False),
    Column("http_method", String(8), nullable=False),
    Column("http_header_fields", Text),
    Column("http_query_params", Text),
    Column("http_request_body", Text),
    Column("source", String(8), nullable=False),
    Column("group_name", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("documentation_link", Text, nullable=False),
    Column("validation_hash_type", String(16), nullable=False),
    Column("cache_configuration", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("first_requested_at", BigInteger, nullable=False),
    Column("latest_requested_at", BigInteger, nullable=False),
    Column("checked_at", BigInteger),
    Column("confirmed_at", BigInteger),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("next_due_at", BigInteger),
    # The highest version ever given and the fence last given: both only ever grow.
    Column("last_version", String(32), nullable=False, server_default=text("''")),
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("signature"),
)
# Only scheduled Requests are in it: the due ones are its first entries.
Index(
    "ix_requests_next_due_at",
    requests.c.next_due_at,
    sqlite_where=requests.c.next_due_at.is_not(None),
    postgresql_where=requests.c.next_due_at.is_not(None),
)
Index("ix_requests_url", requests.c.url)
Index("ix_requests_group_name", requests.c.group_name, requests.c.first_requested_at)

contents = Table(
    "contents",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    Column("rotten_at", BigInteger),
    # Since when no version has it: the sweep's grace counts from here.
    Column("orphaned_at", BigInteger),
)
Index(
    "ix_contents_orphaned_at",
    contents.c.orphaned_at,
    sqlite_where=contents.c.orphaned_at.is_not(None),
    postgresql_where=contents.c.orphaned_at.is_not(None),
)

responses = Table(
    "responses",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("request_id", String(32), ForeignKey("requests.id", ondelete="CASCADE"), nullable=False),
    Column("version", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    # While its content is rotten a version is `failed`; this is what it is again when good bytes return.
    Column("sound_status", String(16)),
    Column("requested_at", BigInteger, nullable=False),
    Column("cached_at", BigInteger),
    Column("last_used_at", BigInteger),
    Column("deleted_at", BigInteger),
    Column("pinned", Boolean, nullable=False, server_default=text("false")),
    Column("pinned_until", BigInteger),
    Column("content_sha256", String(64), ForeignKey("contents.sha256")),
    Column("content_hash_hex", String(128)),
    Column("media_type", Text),
    Column("etag", Text),
    Column("size_bytes", BigInteger),
    Column("last_modified", Text),
    Column("filename", Text),
    Column("content_disposition", Text),
    Column("content_encoding", Text),
    Column("downloaded_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("duration_s", Float, nullable=False, server_default=text("0")),
    Column("started_at", BigInteger),
    Column("error_code", String(64)),
    Column("error", Text),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("resumed_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("final_url", Text),
    Column("http_status", Integer),
    # How often the fetch had to start over, and this once: with the version it is the ETag.
    Column("generation", Integer, nullable=False, server_default=text("1")),
    UniqueConstraint("request_id", "version"),
)
Index("ix_responses_content_sha256", responses.c.content_sha256)
Index(
    "ix_responses_passing",
    responses.c.status,
    responses.c.requested_at,
    sqlite_where=responses.c.status != "ready",
    postgresql_where=responses.c.status != "ready",
)
Index(
    "ix_responses_deleted_at",
    responses.c.deleted_at,
    sqlite_where=responses.c.deleted_at.is_not(None),
    postgresql_where=responses.c.deleted_at.is_not(None),
)

tags = Table(
    "tags",
    metadata,
    Column("response_id", String(32), ForeignKey("responses.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String(64), primary_key=True),
)
Index("ix_tags_tag", tags.c.tag)

# One row while a fetch of a Request runs. A commit carries `fence` and fails when the row is another's.
leases = Table(
    "leases",
    metadata,
    Column("request_id", String(32), ForeignKey("requests.id", ondelete="CASCADE"), primary_key=True),
    Column("fence", BigInteger, nullable=False),
    Column("owner", String(64), nullable=False),
    Column("beat", BigInteger, nullable=False, server_default=text("0")),
    Column("response_id", String(32), nullable=False),
)
Index("ix_leases_owner", leases.c.owner)

# How many transfers an owner may run at one host; the sum over a host's rows is its budget.
slots = Table(
    "slots",
    metadata,
    Column("host", Text, primary_key=True),
    Column("owner", String(64), primary_key=True),
    Column("held", Integer, nullable=False),
    # Set while the owner wants more than it has: who waits longest is served first.
    Column("waiting_since", BigInteger),
)
Index("ix_slots_owner", slots.c.owner)

# A token is never deleted, only revoked: its id is the owner that other rows name.
tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(64), nullable=False),
    # SHA-256 of the secret, in hex; the secret itself is nowhere.
    Column("digest", String(64), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("group_name", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
    UniqueConstraint("name"),
    UniqueConstraint("digest"),
)

# One upload; its bytes are in the folder of uploads until it is complete, then content like any other.
uploads = Table(
    "uploads",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("owner", String(32)),
    Column("kind", String(16), nullable=False),
    # `open`, `closing` while `closer` (a process) makes it whole, `complete`.
    Column("state", String(16), nullable=False),
    Column("closer", String(64)),
    # Of whoever writes it: only ever grows.
    Column("fence", BigInteger, nullable=False, server_default=text("0")),
    Column("file_name", Text, nullable=False),
    Column("media_type", Text),
    Column("metadata", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("digests", Text, nullable=False),
    Column("is_partial", Boolean, nullable=False),
    Column("size", BigInteger),
    Column("chunk_count", Integer),
    Column("chunk_size", BigInteger),
    # Where the next chunk is appended that has no place in the order, and how many claims there were.
    Column("tail", BigInteger, nullable=False, server_default=text("0")),
    Column("claims", BigInteger, nullable=False, server_default=text("0")),
    Column("reserved_bytes", BigInteger, nullable=False),
    Column("received_bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("created_at", BigInteger, nullable=False),
    # None once it is published: then it goes with its version.
    Column("expires_at", BigInteger),
    Column("content_sha256", String(64), ForeignKey("contents.sha256")),
    Column("response_id", String(32), ForeignKey("responses.id", ondelete="CASCADE")),
)
Index("ix_uploads_owner", uploads.c.owner, uploads.c.state)
Index("ix_uploads_state", uploads.c.state)
Index("ix_uploads_expires_at", uploads.c.expires_at)
Index("ix_uploads_content_sha256", uploads.c.content_sha256)
Index("ix_uploads_response_id", uploads.c.response_id)

# Where a chunk is in the file of its upload. Of several of one number, the acknowledged one counts.
upload_chunks = Table(
    "upload_chunks",
    metadata,
    Column("upload_id", String(32), ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("claim", BigInteger, primary_key=True),
    Column("offset", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    # The process that writes it; None once it is acknowledged.
    Column("owner", String(64)),
)

# A due time that is none: somebody asks for the Request, and no fetch has begun for it. Before all that is due.
ASKED = 0

# What several modules ask, with the ids to ask for under ``ids``.
IDS: BindParameter[Any] = bindparam("ids", expanding=True)
# Ascending: of several of one Request, the last one read is the newest.
LATEST_READY = (
    select(responses)
    .where(responses.c.request_id.in_(IDS), responses.c.status == "ready", responses.c.deleted_at.is_(None))
    .order_by(responses.c.version)
)
