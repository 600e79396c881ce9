"""Between the catalog's rows and the models: times, versions, JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Row

from forebay.core.fields import parse_http_date
from forebay.core.urls import show_url
from forebay.models import (
    Request,
    RequestCacheConfiguration,
    RequestSpec,
    Response,
    ResponseContentAttributes,
    ResponseDownloadStats,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VERSION_FORMAT = "%Y%m%dT%H%M%S%fZ"


def micros(unix_s: float) -> int:
    """Whole microseconds of *unix_s*."""
    return round(unix_s * 1_000_000)


def seconds(us: int | None) -> float | None:
    """Unix seconds of *us* microseconds."""
    return None if us is None else us / 1_000_000


def moment(us: int | None) -> datetime | None:
    """The aware UTC datetime of *us* microseconds, exactly."""
    return None if us is None else _EPOCH + timedelta(microseconds=us)


def version_at(us: int) -> str:
    """The version made at *us*: ``20261121T082745123456Z``, which sorts as time does."""
    return (_EPOCH + timedelta(microseconds=us)).strftime(_VERSION_FORMAT)


def next_version(last: str, *, now_us: int) -> str:
    """A version later than *last*, whatever the clock says: one microsecond later if it was set back."""
    if last:
        parsed = datetime.strptime(last, _VERSION_FORMAT).replace(tzinfo=UTC)
        now_us = max(now_us, (parsed - _EPOCH) // timedelta(microseconds=1) + 1)
    return version_at(now_us)


def spec_values(spec: RequestSpec) -> dict[str, Any]:
    """The columns of `requests` that *spec* fills."""
    return {
        "url": spec.url,
        "http_method": spec.http_method,
        "http_header_fields": _dump(spec.http_header_fields),
        "http_query_params": _dump(spec.http_query_params),
        "http_request_body": _dump(spec.http_request_body or None),
        "source": spec.source,
        "group_name": spec.group_name,
        "description": spec.description,
        "documentation_link": spec.documentation_link,
        "validation_hash_type": spec.validation_hash_type,
        "cache_configuration": spec.cache_configuration.model_dump_json(),
    }


def _dump(value: Any) -> str | None:
    # In the order that was given: origins that sign their queries look at it.
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _load(value: str | None) -> Any:
    return None if value is None else json.loads(value)


def request_of(row: Row[Any]) -> Request:
    """The `Request` of a row of `requests`."""
    first, latest = moment(row.first_requested_at), moment(row.latest_requested_at)
    assert first is not None
    assert latest is not None
    return Request.model_construct(
        id=row.id,
        url=row.url,
        http_method=row.http_method,
        http_header_fields=_load(row.http_header_fields),
        http_query_params=_load(row.http_query_params),
        http_request_body=_load(row.http_request_body),
        source=row.source,
        group_name=row.group_name,
        description=row.description,
        documentation_link=row.documentation_link,
        validation_hash_type=row.validation_hash_type,
        cache_configuration=configuration_of(row.cache_configuration),
        first_request_datetime_utc=first,
        latest_request_datetime_utc=latest,
    )


_DEFAULT_CONFIGURATION = RequestCacheConfiguration()
_DEFAULT_TEXT = _DEFAULT_CONFIGURATION.model_dump_json()


def configuration_of(text: str) -> RequestCacheConfiguration:
    """The configuration in *text*; the usual one is parsed once."""
    if text == _DEFAULT_TEXT:
        return _DEFAULT_CONFIGURATION
    return RequestCacheConfiguration.model_validate_json(text)


_STATES: dict[str, Literal["init", "downloading", "failed"]] = {
    "wait": "init",
    "in_progress": "downloading",
    "failed": "failed",
}


def response_of(row: Row[Any], *, now_us: int) -> Response:
    """The `Response` of a row of `responses` with its Request's ``url``, its neighbours and its tags."""
    requested = moment(row.requested_at)
    assert requested is not None
    modified = None if row.last_modified is None else parse_http_date(row.last_modified)
    pinned = bool(row.pinned) and (row.pinned_until is None or row.pinned_until > now_us)
    return Response.model_construct(
        id=row.id,
        request_id=row.request_id,
        url=show_url(row.url),
        version=row.version,
        previous_version=row.previous_version,
        next_version=row.next_version,
        status=row.status,
        content_download_path=f"request/{row.request_id}/response/v/{row.version}/content",
        cached_datetime_utc=moment(row.cached_at),
        request_datetime_utc=requested,
        pinned=pinned,
        pinned_until_utc=moment(row.pinned_until) if pinned else None,
        tags=sorted((row.tag_names or "").split()),
        content_hash_hex=row.content_hash_hex,
        content_attributes=ResponseContentAttributes.model_construct(
            media_type=row.media_type,
            etag=row.etag,
            content_size_bytes=row.size_bytes,
            last_modified_datetime_utc=None if modified is None else _EPOCH + timedelta(seconds=modified),
            filename=row.filename,
            content_disposition=row.content_disposition,
            content_encoding=row.content_encoding,
            sha256=row.content_sha256,
        ),
        download_stats=ResponseDownloadStats.model_construct(
            downloaded_bytes=row.downloaded_bytes,
            avg_bytes_per_sec=row.downloaded_bytes / row.duration_s if row.duration_s > 0 else 0.0,
            download_running_duration_sec=row.duration_s,
            download_start_time_unix_ts=seconds(row.started_at),
            total_bytes_to_download=row.size_bytes,
            state=_STATES.get(row.status, "finished"),
            error=row.error,
            error_code=row.error_code,
            attempts=row.attempts,
            resumed_bytes=row.resumed_bytes,
            final_url=row.final_url,
            http_status=row.http_status,
        ),
    )
