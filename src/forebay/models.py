"""The models that cross the boundary: what Python callers, JSON and the command line see; long, for they are many.

Times are aware UTC datetimes; names are the JSON names. `Request` is a registered ask, `Response` one stored
answer to it (a version).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, Protocol

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator

from forebay.core import strategies
from forebay.core.digests import HASH_NAMES
from forebay.core.fields import check_field, is_secret_field
from forebay.core.strategies import Facts
from forebay.core.urls import UPLOADED, is_secret_parameter, request_url, show_url
from forebay.errors import InvalidValue, RequestError, StateError

Status = Literal["wait", "in_progress", "ready", "duplicate", "failed"]

UNDER_WAY: tuple[Status, ...] = ("wait", "in_progress")
"""The statuses of a version that is being fetched."""
HttpMethod = Literal["get", "post", "put"]
Source = Literal["http", "upload"]

TAG_PATTERN = re.compile(r"[A-Za-z0-9_-]{2,64}")


def check_tag(tag: str) -> str:
    """*tag*, or `InvalidValue`: 2 to 64 of ``[A-Za-z0-9-_]``."""
    if not TAG_PATTERN.fullmatch(tag):
        raise InvalidValue("tag", expected="2 to 64 of [A-Za-z0-9-_]", got=tag)
    return tag


def _cron_tick(line: str, after: float) -> float:
    moment = datetime.fromtimestamp(after, UTC)
    try:
        return next(CronSim(line, moment)).timestamp()
    except StopIteration:  # pragma: no cover - cronsim looks 50 years ahead; a valid line ticks before
        return after + 50 * 365 * 86400.0


def _need_its_name(schema: dict[str, Any]) -> None:
    # It has a default in Python; in JSON it is what tells the strategies apart.
    schema["required"] = sorted({"strategy_name", *schema.get("required", ())})


class _Strategy(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, json_schema_extra=_need_its_name
    )

    @property
    def on_request(self) -> bool:
        """Whether each request refreshes, whatever the time."""
        return False

    @property
    def keeps_duplicates(self) -> bool:
        """Whether a check that found nothing new makes a `duplicate` version."""
        return True

    def may_probe(self, facts: Facts) -> bool:
        """Whether a HEAD will do for a content without a validator."""
        return False


class Never(_Strategy):
    """Fetched once."""

    strategy_name: Literal["never"] = "never"

    def next_due(self, facts: Facts) -> float | None:
        """Unix time at which the Request is due; None: never by itself. So with the other strategies."""
        return strategies.never(facts)


class Age(_Strategy):
    """Fetched again *seconds* after the last check."""

    strategy_name: Literal["age"] = "age"
    seconds: float = Field(default=3600, gt=0, le=10 * 365 * 86400)

    def next_due(self, facts: Facts) -> float | None:
        return strategies.age(facts, seconds=self.seconds)


class Cron(_Strategy):
    """Fetched at each tick of *cron* (UTC): five fields, or six with the seconds first; and at once after the
    registration with *run_at_start*."""

    strategy_name: Literal["cron"] = "cron"
    cron: str = Field(default="0 0 * * *", max_length=1000)
    run_at_start: bool = True

    @field_validator("cron")
    @classmethod
    def _check_cron(cls, line: str) -> str:
        try:
            next(CronSim(line, datetime(2024, 1, 1, tzinfo=UTC)))
        except (CronSimError, StopIteration, ValueError) as error:
            raise ValueError(f"a cron line of five fields, or six with the seconds first ({error})") from error
        return line

    def next_due(self, facts: Facts) -> float | None:
        return strategies.cron(facts, line=self.cron, run_at_start=self.run_at_start, tick=_cron_tick)


class WhenRequested(_Strategy):
    """Fetched at each request; requests during a running fetch share it."""

    strategy_name: Literal["when_requested"] = "when_requested"

    @property
    def on_request(self) -> bool:
        return True

    def next_due(self, facts: Facts) -> float | None:
        return strategies.when_requested(facts)


class WhenRemoteChanged(_Strategy):
    """Asked conditionally each *check_interval_sec*; a new version only when the content changed. Without a
    validator, a HEAD may keep the version for *fallback_max_age_sec*."""

    strategy_name: Literal["when_remote_changed"] = "when_remote_changed"
    check_interval_sec: float = Field(default=21600, gt=0, le=10 * 365 * 86400)
    fallback_max_age_sec: float = Field(default=86400, gt=0, le=10 * 365 * 86400)

    @property
    def keeps_duplicates(self) -> bool:
        return False

    def may_probe(self, facts: Facts) -> bool:
        return facts.confirmed_at is not None and facts.now < facts.confirmed_at + self.fallback_max_age_sec

    def next_due(self, facts: Facts) -> float | None:
        return strategies.when_remote_changed(
            facts,
            check_interval_sec=self.check_interval_sec,
            fallback_max_age_sec=self.fallback_max_age_sec,
        )


AnyStrategy = Annotated[
    Never | Age | Cron | WhenRequested | WhenRemoteChanged, Field(discriminator="strategy_name")
]


class ReCachingStrategy:
    """When a Request is fetched again: ``ReCachingStrategy.age(seconds=60)`` and so on."""

    never = Never
    age = Age
    cron = Cron
    when_requested = WhenRequested
    when_remote_changed = WhenRemoteChanged

    @staticmethod
    def parse(text: str) -> Never | Age | Cron | WhenRequested | WhenRemoteChanged:
        """The strategy that a short *text* names: ``never``, ``always``, ``changed``, an age such as ``90s``,
        ``15m``, ``6h``, ``7d``, ``2w``, or ``cron:LINE``. Raises `InvalidValue`."""
        word = text.strip()
        plain: dict[str, type[Never | WhenRequested | WhenRemoteChanged]] = {
            "never": Never,
            "always": WhenRequested,
            "changed": WhenRemoteChanged,
        }
        if word in plain:
            return plain[word]()
        try:
            if word.startswith("cron:"):
                return Cron(cron=word.removeprefix("cron:").strip())
            return Age(seconds=parse_duration(word))
        except ValueError as error:
            expected = "never, always, changed, an age such as 90s, 15m, 6h, 7d, or cron:LINE"
            raise InvalidValue("refresh", expected=expected, got=text) from error


def parse_duration(text: str) -> float:
    """Seconds that *text* says: a number with s, m, h, d or w behind it. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([smhdw])", text.strip())
    if match is None:
        raise ValueError(f"no duration: {text!r}")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[match[2]]


class RequestCacheConfiguration(BaseModel):
    """When a Request is fetched again, and how many of its versions are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    recaching_strategy: AnyStrategy = Field(default_factory=WhenRemoteChanged)
    max_cached_unpinned_versions: int = Field(default=2, ge=1)
    max_cached_pinned_versions: int = Field(default=10, ge=0)


class _Shown(BaseModel):
    """A model whose repr shows no secret."""

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, show_url(value) if name == "url" else value


class Request(_Shown):
    """A registered ask for one upstream resource; its `signature` is its identity."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    id: str
    url: str
    http_method: HttpMethod = "get"
    http_header_fields: dict[str, str] | None = Field(default=None, repr=False)
    http_query_params: dict[str, str | list[str]] | None = Field(default=None, repr=False)
    http_request_body: dict[str, Any] | str | None = Field(default=None, repr=False)
    source: Source = "http"
    group_name: str = "default"
    description: str = ""
    documentation_link: str = ""
    validation_hash_type: str = "sha256"
    cache_configuration: RequestCacheConfiguration = Field(default_factory=RequestCacheConfiguration)
    first_request_datetime_utc: datetime
    latest_request_datetime_utc: datetime


def without_secrets(request: Request) -> Request:
    """*request* as it may be shown: header fields and parameters that carry secrets are masked, a body is
    left out. Its URL stays what it is found by."""
    fields, params = request.http_header_fields or {}, request.http_query_params or {}
    masked_fields = {name: "***" if is_secret_field(name) else value for name, value in fields.items()}
    masked_params = {name: "***" if is_secret_parameter(name) else value for name, value in params.items()}
    return request.model_copy(
        update={
            "http_header_fields": masked_fields or None,
            "http_query_params": masked_params or None,
            "http_request_body": None if request.http_request_body is None else "***",
        }
    )


class RequestSpec(_Shown):
    """What a caller registers: a `Request` without what Forebay adds. Everything is checked here."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str
    http_method: HttpMethod = "get"
    http_header_fields: dict[str, str] | None = Field(default=None, repr=False)
    http_query_params: dict[str, str | list[str]] | None = Field(default=None, repr=False)
    http_request_body: dict[str, Any] | str | None = Field(default=None, repr=False)
    group_name: str = Field(default="default", min_length=1, max_length=200)
    description: str = Field(default="", max_length=10_000)
    documentation_link: str = Field(default="", max_length=8192)
    validation_hash_type: str = "sha256"
    cache_configuration: RequestCacheConfiguration = Field(default_factory=RequestCacheConfiguration)

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        return request_url(url)

    @field_validator("http_header_fields")
    @classmethod
    def _check_fields(cls, fields: dict[str, str] | None) -> dict[str, str] | None:
        for name, value in (fields or {}).items():
            check_field(name, value)
            if name.lower() in FIELDS_OF_OURS:
                raise InvalidValue(
                    f"http_header_fields.{name}", expected="a field that Forebay does not set", got=name
                )
        return fields or None

    @field_validator("http_query_params", "http_request_body", "group_name", "description", "documentation_link")
    @classmethod
    def _check_text(cls, value: Any, info: ValidationInfo) -> Any:
        """What is no JSON in UTF-8 can be neither stored nor sent."""
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            expected = "text without lone surrogates and, where it is JSON, what JSON can say"
            raise InvalidValue(info.field_name or "", expected=expected, got=type(value).__name__) from error
        return value

    @field_validator("validation_hash_type")
    @classmethod
    def _check_hash(cls, name: str) -> str:
        return check_hash_name(name)

    @property
    def source(self) -> Source:
        """Where its versions come from: an origin, or those who upload them under its name."""
        return "upload" if self.url.startswith(UPLOADED) else "http"

    def signature(self) -> str:
        """SHA-256 over the canonical JSON of method, URL, params, fields, body and group, in hex."""
        identity = {
            "method": self.http_method,
            "url": self.url,
            "params": self.http_query_params or {},
            "fields": sorted((name.lower(), value) for name, value in (self.http_header_fields or {}).items()),
            "body": self.http_request_body or None,
            "group": self.group_name,
        }
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


# Fields that say how the bytes travel: the download sets them, or HTTP would break.
FIELDS_OF_OURS = frozenset(
    {
        "accept-encoding", "connection", "content-length", "expect", "host", "if-match", "if-modified-since",
        "if-none-match", "if-range", "if-unmodified-since", "keep-alive", "proxy-authorization",
        "proxy-connection", "range", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


def check_hash_name(name: str) -> str:
    """*name* in lower case, or `InvalidValue`: any guaranteed hashlib name."""
    if name.lower() not in HASH_NAMES:
        raise InvalidValue("validation_hash_type", expected="one of " + ", ".join(sorted(HASH_NAMES)), got=name)
    return name.lower()


def body_to_send(body: dict[str, Any] | str | None) -> tuple[bytes | None, str | None]:
    """The bytes and the Content-Type of a registered body: null or ``{}`` sends nothing, a dict is sent as
    JSON, a str as it is."""
    if not body:
        return None, None
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    return json.dumps(body, ensure_ascii=False).encode(), "application/json"


class ResponseContentAttributes(BaseModel):
    """What is known of a version's content. Never null once a version exists; its parts may be."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    media_type: str | None = None
    etag: str | None = None
    content_size_bytes: int | None = None
    last_modified_datetime_utc: datetime | None = None
    filename: str | None = None
    content_disposition: str | None = None
    content_encoding: str | None = None
    sha256: str | None = None


class ResponseDownloadStats(BaseModel):
    """How a version's download went, or how it is going. Never null once a version exists."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    downloaded_bytes: int = 0
    avg_bytes_per_sec: float = 0.0
    download_running_duration_sec: float = 0.0
    download_start_time_unix_ts: float | None = None
    total_bytes_to_download: int | None = None
    state: Literal["init", "downloading", "failed", "finished"] = "init"
    error: str | None = None
    error_code: str | None = None
    attempts: int = 0
    resumed_bytes: int = 0
    final_url: str | None = None
    http_status: int | None = None


class Response(BaseModel):
    """One stored answer to a Request: an immutable version."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    id: str
    request_id: str
    url: str
    version: str
    previous_version: str | None = None
    next_version: str | None = None
    status: Status
    content_download_path: str
    cached_datetime_utc: datetime | None = None
    request_datetime_utc: datetime
    pinned: bool = False
    pinned_until_utc: datetime | None = None
    tags: list[str] = Field(default_factory=list)
    content_hash_hex: str | None = None
    content_attributes: ResponseContentAttributes = Field(default_factory=ResponseContentAttributes)
    download_stats: ResponseDownloadStats = Field(default_factory=ResponseDownloadStats)


MAX_UPLOAD_BYTES = 2**62
"""More than any disk has; beyond it, no file system can count."""


class ChunkRequest(BaseModel):
    """One chunk of an upload. The names are those of the interface that clients know."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    chunkCount: int = Field(ge=0, le=1_000_000)
    chunkNumber: int = Field(ge=0)
    content: bytes = Field(repr=False)
    fileName: str = Field(max_length=4096)
    totalSize: int = Field(ge=0, le=MAX_UPLOAD_BYTES)
    uploadUid: str = ""
    digest: str | None = Field(default=None, max_length=300)


class ChunkResponse(BaseModel):
    """The answer to a chunk: which upload it is of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    uploadUid: str


class UploadHome(Protocol):
    """Where an `Upload` is kept: what its methods ask."""

    def private_copy(self, upload: Upload) -> Path:
        """See `Upload.path`."""
        ...

    def open_upload(self, upload: Upload) -> BinaryIO:
        """See `Upload.open`."""
        ...

    def publish_upload(self, upload: Upload, name: str, *, tag: str | None) -> Response:
        """See `Upload.publish`."""
        ...


class Upload(BaseModel):
    """A complete upload: verified, and stored as content."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    uploadUid: str
    fileName: str
    totalSize: int
    sha256: str
    media_type: str
    metadata: dict[str, str] = Field(default_factory=dict)
    created: datetime
    expires: datetime | None = None
    owner: str | None = None
    state: Literal["complete", "published"] = "complete"
    _home: UploadHome | None = PrivateAttr(default=None)

    def at(self, home: UploadHome) -> Upload:
        """The same, with the place where it is kept."""
        copy = self.model_copy()
        copy._home = home
        return copy

    @property
    def path(self) -> Path:
        """A file of the caller's own, which may be moved and changed; made when it is first asked for, and removed
        with the upload unless it was moved."""
        return self._there.private_copy(self)

    def open(self) -> BinaryIO:
        """The bytes, to read; nothing is copied."""
        return self._there.open_upload(self)

    def publish(self, name: str, *, tag: str | None = None) -> Response:
        """Make it the newest version of *name*, at ``/r/forebay:<name>``; it does not expire any more."""
        return self._there.publish_upload(self, name, tag=tag)

    @property
    def _there(self) -> UploadHome:
        if self._home is None:
            raise StateError("this upload is a description only: have it from `bay.uploads.get_upload`")
        return self._home


def invalid_from(error: ValidationError, field: str = "request") -> RequestError:
    """`RequestError` for what pydantic found wrong: names the field and the rule, never a secret's value."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or field
    got = first.get("input")
    if str(first["loc"][0] if first["loc"] else field) in _MAY_HOLD_SECRETS or not isinstance(
        got, str | int | float
    ):
        got = type(got).__name__
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "extra_forbidden":
        return InvalidValue(where, expected="a name that exists", got=where)
    return InvalidValue(where, expected=expected, got=got)


# Never quoted back in an error.
_MAY_HOLD_SECRETS = frozenset({"url", "http_header_fields", "http_query_params", "http_request_body", "proxy"})
