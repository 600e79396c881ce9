"""The models of the REST API that `forebay.models` has not: what a client sends, and what it gets besides a
`Request` and a `Response`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from forebay.models import (
    TAG_PATTERN,
    AnyStrategy,
    HttpMethod,
    Request,
    RequestCacheConfiguration,
    RequestSpec,
    Response,
    invalid_from,
)
from forebay.reports import VerifyReport

_STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class CacheConfigurationIn(RequestCacheConfiguration):
    """A cache configuration as clients send it: some name the Request in it as well, which changes nothing."""

    request_id: str | None = Field(default=None, exclude=True)

    def configuration(self) -> RequestCacheConfiguration:
        """What is meant."""
        return RequestCacheConfiguration(**{name: getattr(self, name) for name in _CONFIGURED})


_CONFIGURED = tuple(RequestCacheConfiguration.model_fields)


Parameter = str | int | float | bool


class RequestIn(BaseModel):
    """A Request to find or to create. A null is as good as a field that is not there; a parameter that is no
    text is sent as Python writes it."""

    model_config = _STRICT

    url: str
    http_method: HttpMethod | None = None
    http_header_fields: dict[str, str] | None = None
    http_query_params: dict[str, Parameter | list[Parameter | None] | None] | None = None
    http_request_body: dict[str, Any] | str | None = None
    group_name: str | None = None
    description: str | None = None
    documentation_link: str | None = None
    validation_hash_type: str | None = None
    cache_configuration: CacheConfigurationIn | None = None

    def spec(self, *, group: str | None = None) -> RequestSpec:
        """What is to be registered; in *group* when none is named. Raises `RequestError`."""
        values = {name: value for name, value in dict(self).items() if value is not None}
        if self.cache_configuration is not None:
            values["cache_configuration"] = self.cache_configuration.configuration()
        if self.http_query_params is not None:
            values["http_query_params"] = _as_text(self.http_query_params)
        if group is not None:
            values.setdefault("group_name", group)
        try:
            return RequestSpec(**values)
        except ValidationError as error:
            raise invalid_from(error) from error


def _as_text(params: dict[str, Parameter | list[Parameter | None] | None]) -> dict[str, str | list[str]]:
    # As `requests` does, through which public clients and servers alike have sent what they were given.
    return {
        name: [str(one) for one in value if one is not None] if isinstance(value, list) else str(value)
        for name, value in params.items()
        if value is not None
    }


class RegisteredRequest(Request):
    """A Request as it was found or created. *request_timestamp*: when it was asked for, in Unix seconds; it
    survives JSON exactly."""

    request_timestamp: float


class Registration(BaseModel):
    """Whether an ask has reached who fetches."""

    model_config = _STRICT

    status: Literal["registered", "not_registered"]


class ResponsePinClaim(BaseModel):
    """Hold a version against eviction, for ever or for a time; with ``value`` false let it go."""

    model_config = _STRICT

    value: bool
    duration_sec: float | None = Field(default=None, gt=0, le=100 * 365 * 86400)
    # Clients repeat what the path says.
    request_id: str | None = None
    response_version: str | None = None


class ResponseTagClaim(BaseModel):
    """Name a version; with ``delete`` take the name away."""

    model_config = _STRICT

    value: str = Field(pattern=f"^{TAG_PATTERN.pattern}$")
    delete: bool = False
    request_id: str | None = None
    response_version: str | None = None


class FetchAsk(BaseModel):
    """A version to use now. *wait_sec*: how long the answer may take; then it tells how far the fetch is, and
    *asked_at* of that answer goes on with it."""

    model_config = _STRICT

    refresh: Annotated[str, Field(max_length=200)] | AnyStrategy | None = None
    expected_hash: str | None = Field(default=None, max_length=300)
    offline: bool = False
    wait_sec: float = Field(default=10.0, ge=0, le=30)
    asked_at: float | None = Field(default=None, ge=0, le=1e11)


class WishIn(FetchAsk):
    """A version of *request* to use now; it is registered unless *offline*, *tag* or *version* say that nothing is
    to be fetched. *until* ``begun``: what lands can be followed by then, and the answer need not wait for more."""

    request: RequestIn
    tag: str | None = Field(default=None, pattern=f"^{TAG_PATTERN.pattern}$")
    version: str | None = Field(default=None, max_length=64)
    until: Literal["over", "begun"] = "over"


class FindIn(BaseModel):
    """What a Request is found by. *name*: its URL or its id."""

    model_config = _STRICT

    name: str = Field(max_length=8192)


class UndeleteIn(BaseModel):
    """Have back what was removed: all of it, or one version."""

    model_config = _STRICT

    version: str | None = Field(default=None, max_length=64)


class GcIn(BaseModel):
    """Drop what nothing needs any more; with *dry_run*, only tell."""

    model_config = _STRICT

    dry_run: bool = False


class VerifyIn(BaseModel):
    """Check the contents that come after the digest *after*, for about *for_sec*."""

    model_config = _STRICT

    after: Sha256 | None = None
    for_sec: float = Field(default=1.0, ge=0, le=30)


class VerifiedPart(BaseModel):
    """What was checked. *next*: where to go on, None when that was all; *total_bytes*: of all contents."""

    model_config = _STRICT

    report: VerifyReport
    next: str | None
    total_bytes: int


class Failure(BaseModel):
    """Why a fetch failed."""

    model_config = _STRICT

    code: str
    detail: str


class FetchAnswer(BaseModel):
    """The version to use. *how*: as `forebay.Fetched` says it; *error*: why it is stale."""

    model_config = _STRICT

    how: Literal["stored", "fetched", "unchanged", "stale"]
    response: Response
    error: Failure | None = None


class FetchProgress(BaseModel):
    """How far a fetch is."""

    model_config = _STRICT

    state: str
    downloaded_bytes: int
    total_bytes: int | None
    attempt: int
    reason: str | None


class FetchUnderWay(BaseModel):
    """A fetch that is not over. *response*: its version, once it has one. *asked_at*: to go on with it."""

    model_config = _STRICT

    progress: FetchProgress
    response: Response | None
    asked_at: float


class PublishIn(BaseModel):
    """Which name an upload gets. *sha256*: what its bytes must have, else nothing is published."""

    model_config = _STRICT

    name: str = Field(min_length=1, max_length=8192)
    tag: str | None = Field(default=None, pattern=f"^{TAG_PATTERN.pattern}$")
    sha256: Sha256 | None = None


class Removed(BaseModel):
    """The versions that were removed; they can be had back until then."""

    model_config = _STRICT

    removed: list[Response]
    until_datetime_utc: datetime


class Problem(BaseModel):
    """What went wrong (RFC 9457), with a stable ``code``."""

    model_config = ConfigDict(extra="allow")

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str


class Health(BaseModel):
    """How the server is."""

    model_config = _STRICT

    status: Literal["ok"]
