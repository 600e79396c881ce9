"""The models that cross the boundary: their names, what they refuse, and what makes two asks one Request."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from forebay.core.strategies import Facts
from forebay.errors import InvalidUrl, InvalidValue, RequestError
from forebay.models import (
    FIELDS_OF_OURS,
    Age,
    Cron,
    Never,
    ReCachingStrategy,
    Request,
    RequestCacheConfiguration,
    RequestSpec,
    Response,
    ResponseContentAttributes,
    ResponseDownloadStats,
    WhenRemoteChanged,
    WhenRequested,
    body_to_send,
    check_tag,
    invalid_from,
    parse_duration,
)

URL = "https://data.example/set.bin"
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


# --- names (issue 2, section 2) -----------------------------------------------------------------------------

NAMES: list[tuple[type[Any], set[str]]] = [
    (
        Response,
        {
            "id",
            "request_id",
            "url",
            "version",
            "previous_version",
            "next_version",
            "status",
            "content_download_path",
            "cached_datetime_utc",
            "request_datetime_utc",
            "pinned",
            "pinned_until_utc",
            "tags",
            "content_hash_hex",
            "content_attributes",
            "download_stats",
        },
    ),
    (
        ResponseContentAttributes,
        {
            "media_type",
            "etag",
            "content_size_bytes",
            "last_modified_datetime_utc",
            "filename",
            "content_disposition",
            "content_encoding",
            "sha256",
        },
    ),
    (
        ResponseDownloadStats,
        {
            "downloaded_bytes",
            "avg_bytes_per_sec",
            "download_running_duration_sec",
            "download_start_time_unix_ts",
            "total_bytes_to_download",
            "state",
            "error",
            "error_code",
            "attempts",
            "resumed_bytes",
            "final_url",
            "http_status",
        },
    ),
    (
        Request,
        {
            "id",
            "url",
            "http_method",
            "http_header_fields",
            "http_query_params",
            "http_request_body",
            "source",
            "group_name",
            "description",
            "documentation_link",
            "validation_hash_type",
            "cache_configuration",
            "first_request_datetime_utc",
            "latest_request_datetime_utc",
        },
    ),
    (
        RequestCacheConfiguration,
        {"recaching_strategy", "max_cached_unpinned_versions", "max_cached_pinned_versions"},
    ),
]


@pytest.mark.parametrize(("model", "names"), NAMES)
def test_the_names_in_json_are_those_of_the_issue(model: type[Any], names: set[str]) -> None:
    """No alias stands between an attribute, a parameter and a JSON name."""
    assert set(model.model_fields) == names
    assert set(model.model_json_schema()["properties"]) == names


def test_a_response_goes_to_json_and_back() -> None:
    """Times are aware and in UTC; parts that are not known are there, as null."""
    response = Response(
        id="a",
        request_id="b",
        url=URL,
        version="20261121T120000000000Z",
        status="wait",
        content_download_path="request/b/response/v/20261121T120000000000Z/content",
        request_datetime_utc=NOON,
    )
    data = json.loads(response.model_dump_json())
    assert data["request_datetime_utc"] == "2026-11-21T12:00:00Z"
    assert data["content_attributes"]["sha256"] is None
    assert data["download_stats"]["state"] == "init"
    assert Response.model_validate_json(response.model_dump_json()) == response


@pytest.mark.parametrize("status", ["wait", "in_progress", "ready", "duplicate", "failed"])
def test_a_response_has_one_of_five_statuses(status: str) -> None:
    """And no other."""
    values = {
        "id": "a",
        "request_id": "b",
        "url": URL,
        "version": "v",
        "content_download_path": "/",
        "request_datetime_utc": NOON,
    }
    assert Response.model_validate({**values, "status": status}).status == status
    with pytest.raises(ValidationError):
        Response.model_validate({**values, "status": status.upper()})


def test_the_defaults_are_those_of_the_issue() -> None:
    """GET, group `default`, SHA-256, 2 unpinned and 10 pinned versions, asked when the origin changed."""
    spec = RequestSpec(url=URL)
    assert (spec.http_method, spec.group_name, spec.validation_hash_type) == ("get", "default", "sha256")
    configuration = spec.cache_configuration
    assert configuration.max_cached_unpinned_versions == 2
    assert configuration.max_cached_pinned_versions == 10
    assert configuration.recaching_strategy == WhenRemoteChanged()
    assert WhenRemoteChanged().check_interval_sec == 21600
    assert WhenRemoteChanged().fallback_max_age_sec == 86400
    assert Age().seconds == 3600
    assert Cron() == Cron(cron="0 0 * * *", run_at_start=True)


STRATEGIES = [Never(), Age(seconds=60), Cron(cron="*/5 * * * *"), WhenRequested(), WhenRemoteChanged()]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_is_told_by_its_name(strategy: Any) -> None:
    """``strategy_name`` in JSON brings the same strategy back."""
    configuration = RequestCacheConfiguration(recaching_strategy=strategy)
    text = configuration.model_dump_json()
    assert RequestCacheConfiguration.model_validate_json(text) == configuration
    assert json.loads(text)["recaching_strategy"]["strategy_name"] == strategy.strategy_name


@pytest.mark.parametrize(
    "values",
    [
        {"recaching_strategy": {"strategy_name": "sometimes"}},
        {"recaching_strategy": {"strategy_name": "age", "cron": "* * * * *"}},
        {"recaching_strategy": {"strategy_name": "age", "seconds": 0}},
        {"recaching_strategy": {"strategy_name": "age", "seconds": -1}},
        {"recaching_strategy": {"strategy_name": "age", "seconds": "inf"}},
        {"recaching_strategy": {"strategy_name": "age", "seconds": "nan"}},
        {"recaching_strategy": {"strategy_name": "when_remote_changed", "check_interval_sec": 0}},
        {"max_cached_unpinned_versions": 0},
        {"max_cached_pinned_versions": -1},
        {"max_cached_versions": 3},
    ],
)
def test_a_wrong_configuration_is_refused(values: dict[str, Any]) -> None:
    """Unknown strategies and names, and numbers out of bounds; the error names the field."""
    with pytest.raises(ValidationError) as caught:
        RequestCacheConfiguration.model_validate(values)
    assert next(iter(values)) in str(invalid_from(caught.value))


# --- strategies in short, and cron ---------------------------------------------------------------------------

SHORT = [
    ("never", Never()),
    ("always", WhenRequested()),
    ("changed", WhenRemoteChanged()),
    (" changed ", WhenRemoteChanged()),
    ("90s", Age(seconds=90)),
    ("15m", Age(seconds=900)),
    ("6h", Age(seconds=21600)),
    ("7d", Age(seconds=604800)),
    ("2w", Age(seconds=1209600)),
    ("1.5 h", Age(seconds=5400)),
    ("cron:0 3 * * *", Cron(cron="0 3 * * *")),
    ("cron: 30 0 3 * * *", Cron(cron="30 0 3 * * *")),
]


@pytest.mark.parametrize(("text", "strategy"), SHORT)
def test_a_short_text_names_a_strategy(text: str, strategy: Any) -> None:
    """As on the command line."""
    assert ReCachingStrategy.parse(text) == strategy


@pytest.mark.parametrize(
    "text", ["", "often", "6", "h", "-6h", "6 hours", "0s", "1e3s", "9999999w", "cron:", "cron:* *", "Never", "٣h"]
)
def test_a_text_that_names_no_strategy_is_refused_with_the_choices(text: str) -> None:
    """The error says what would do."""
    with pytest.raises(InvalidValue) as caught:
        ReCachingStrategy.parse(text)
    assert caught.value.field == "refresh"
    assert "never, always, changed, an age such as 90s" in str(caught.value)


def test_the_strategies_can_be_made_by_their_names() -> None:
    """``ReCachingStrategy.age(seconds=60)`` and so on."""
    assert ReCachingStrategy.never() == Never()
    assert ReCachingStrategy.age(seconds=60) == Age(seconds=60)
    assert ReCachingStrategy.cron(cron="* * * * *", run_at_start=False).run_at_start is False
    assert ReCachingStrategy.when_requested() == WhenRequested()
    assert ReCachingStrategy.when_remote_changed(check_interval_sec=1).check_interval_sec == 1


@given(st.integers(1, 1000), st.sampled_from([("s", 1), ("m", 60), ("h", 3600), ("d", 86400), ("w", 604800)]))
def test_a_duration_is_a_number_and_a_unit(number: int, unit: tuple[str, int]) -> None:
    """Seconds come out."""
    assert parse_duration(f"{number}{unit[0]}") == number * unit[1]


TICKS = [
    # cron line, the first tick after 2026-11-21 12:00:00 UTC, a Saturday
    ("* * * * *", "2026-11-21T12:01:00"),
    ("0 0 * * *", "2026-11-22T00:00:00"),
    ("*/15 * * * *", "2026-11-21T12:15:00"),
    ("0 12 * * *", "2026-11-22T12:00:00"),
    ("0 9 * * MON", "2026-11-23T09:00:00"),
    ("0 0 1 1 *", "2027-01-01T00:00:00"),
    ("0 0 29 2 *", "2028-02-29T00:00:00"),
    ("* * * * * *", "2026-11-21T12:00:01"),
    ("30 * * * * *", "2026-11-21T12:00:30"),
    ("*/10 0 0 * * *", "2026-11-22T00:00:00"),
]


@pytest.mark.parametrize(("line", "tick"), TICKS)
def test_a_cron_line_of_five_or_six_fields_ticks_in_utc(line: str, tick: str) -> None:
    """Six fields begin with the seconds."""
    noon = NOON.timestamp()
    facts = Facts(now=noon, registered_at=noon, checked_at=noon, stored=True)
    due = Cron(cron=line).next_due(facts)
    assert due == datetime.fromisoformat(tick).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "line",
    ["", "*", "* * * *", "* * * * * * *", "60 * * * *", "0 0 30 2 *", "a b c d e", "* * * * * 61", "0 25 * * *"],
)
def test_a_cron_line_that_is_none_is_refused(line: str) -> None:
    """Also one that never ticks; the error says which forms there are."""
    with pytest.raises(ValidationError, match="five fields, or six with the seconds first"):
        Cron(cron=line)


def test_a_cron_line_is_not_endless() -> None:
    """It is read again at each tick."""
    with pytest.raises(ValidationError, match="1000 characters"):
        Cron(cron="0," * 1000 + "0 * * * *")


DUE = [
    # strategy, what is due an hour after the check, and on registration
    (Never(), None, NOON.timestamp()),
    (Age(seconds=60), NOON.timestamp() + 60, NOON.timestamp()),
    (Cron(cron="0 0 * * *"), NOON.timestamp() + 12 * 3600, NOON.timestamp()),
    (Cron(cron="0 0 * * *", run_at_start=False), NOON.timestamp() + 12 * 3600, NOON.timestamp() + 12 * 3600),
    (WhenRequested(), None, NOON.timestamp()),
    (WhenRemoteChanged(check_interval_sec=100), NOON.timestamp() + 100, NOON.timestamp()),
]


@pytest.mark.parametrize(("strategy", "later", "at_first"), DUE)
def test_a_strategy_says_when_it_is_due(strategy: Any, later: float | None, at_first: float) -> None:
    """After a check at noon, and when nothing was ever fetched."""
    noon = NOON.timestamp()
    facts = Facts(now=noon + 3600, registered_at=noon, checked_at=noon, confirmed_at=noon, stored=True)
    assert strategy.next_due(facts) == later
    assert strategy.next_due(Facts(now=noon, registered_at=noon)) == at_first


def test_only_some_strategies_keep_duplicates_probe_or_refresh_on_request() -> None:
    """Issue 2, section 2: equal bytes make a duplicate, but not under `when_remote_changed`."""
    fresh = Facts(now=100.0, registered_at=0.0, checked_at=50.0, confirmed_at=50.0, stored=True)
    assert [s.keeps_duplicates for s in STRATEGIES] == [True, True, True, True, False]
    assert [s.on_request for s in STRATEGIES] == [False, False, False, True, False]
    assert [s.may_probe(fresh) for s in STRATEGIES] == [False, False, False, False, True]


@pytest.mark.parametrize(
    ("now", "confirmed_at", "may"), [(149.0, 50.0, True), (150.0, 50.0, False), (60.0, None, False)]
)
def test_a_head_will_do_only_until_the_fallback_age(now: float, confirmed_at: float | None, may: bool) -> None:
    """Then the content is fetched whole to be sure."""
    strategy = WhenRemoteChanged(fallback_max_age_sec=100)
    assert strategy.may_probe(Facts(now=now, registered_at=0.0, confirmed_at=confirmed_at)) is may


# --- what is registered ---------------------------------------------------------------------------------------

BAD_URLS = [
    "",
    "data.example/x",
    "ftp://data.example/x",
    "file:///etc/passwd",
    "https://",
    "https:///x",
    "https://me:s3cret@data.example/",
    "https://data.example:99999/",
    "https://data.example/\x00",
    "https://data.example/" + "x" * 8192,
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_is_not_fetched_is_refused(url: str) -> None:
    """DESIGN.md section 7: not http(s), no host, a password, too long; the error never shows the password."""
    with pytest.raises(InvalidUrl) as caught:
        RequestSpec(url=url)
    assert "s3cret" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("tag", ["ab", "v1-2_3", "A" * 64])
def test_a_tag_is_2_to_64_of_its_characters(tag: str) -> None:
    """It is given back as it is."""
    assert check_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", "a", "A" * 65, "a b", "a/b", "..", "ä1", "ab\n", "a.b"])
def test_a_tag_that_is_none_is_refused(tag: str) -> None:
    """The error names the rule."""
    with pytest.raises(InvalidValue, match="2 to 64 of"):
        check_tag(tag)


@pytest.mark.parametrize("name", sorted(hashlib.algorithms_guaranteed))
def test_each_guaranteed_hash_can_be_named(name: str) -> None:
    """Those of hashlib, in any case of letters."""
    assert RequestSpec(url=URL, validation_hash_type=name.upper()).validation_hash_type == name


@pytest.mark.parametrize("name", ["", "sha-256", "crc32", "md4"])
def test_a_hash_that_is_none_is_refused(name: str) -> None:
    """The error lists those that are."""
    with pytest.raises(InvalidValue, match="sha256"):
        RequestSpec(url=URL, validation_hash_type=name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "a\r\nX-B: s3cret"),
        ("X-A", "s3cret\n"),
        ("X-A", "s3cret\x00"),
        ("X-A", "s3cret ☃"),
        ("X A", "s3cret"),
        ("X-A:", "s3cret"),
        ("", "s3cret"),
        ("X-Ä", "s3cret"),
    ],
)
def test_a_field_that_cannot_be_sent_cannot_be_constructed(name: str, value: str) -> None:
    """Invariant 10; and invariant 9: its value is not in the error."""
    with pytest.raises(InvalidValue) as caught:
        RequestSpec(url=URL, http_header_fields={name: value})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(FIELDS_OF_OURS))
def test_a_field_that_forebay_sets_cannot_be_registered(name: str) -> None:
    """In any case of its letters; its value is not in the error."""
    with pytest.raises(InvalidValue, match="a field that Forebay does not set") as caught:
        RequestSpec(url=URL, http_header_fields={name.title(): "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_the_fields_that_make_a_resume_safe_are_ours() -> None:
    """Invariant 3 would not hold with a Range or a condition of the client's."""
    assert {"range", "if-range", "if-none-match", "if-modified-since", "accept-encoding"} <= FIELDS_OF_OURS


def test_no_fields_are_none() -> None:
    """An empty object registers nothing."""
    assert RequestSpec(url=URL, http_header_fields={}).http_header_fields is None


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({}, "url"),
        ({"url": URL, "http_method": "delete"}, "http_method"),
        ({"url": URL, "http_method": "GET"}, "http_method"),
        ({"url": URL, "group_name": ""}, "group_name"),
        ({"url": URL, "group_name": "x" * 201}, "group_name"),
        ({"url": URL, "description": "x" * 10_001}, "description"),
        ({"url": URL, "colour": "red"}, "colour"),
        ({"url": URL, "cache_configuration": {"recaching_strategy": {"strategy_name": "x"}}}, "recaching_strategy"),
    ],
)
def test_a_wrong_registration_is_refused_by_name(values: dict[str, Any], field: str) -> None:
    """What pydantic finds becomes an error of the caller's that names the field and the rule."""
    with pytest.raises(ValidationError) as caught:
        RequestSpec.model_validate(values)
    error = invalid_from(caught.value)
    assert isinstance(error, RequestError)
    assert field in str(error)


NESTED: dict[str, Any] = {}
for _ in range(2000):
    NESTED = {"a": NESTED}


@pytest.mark.parametrize(
    "part",
    [
        {"group_name": "\ud800"},
        {"description": "\udfff"},
        {"documentation_link": "https://data.example/\ud800"},
        {"http_query_params": {"a": "\ud800"}},
        {"http_query_params": {"\ud800": ["a"]}},
        {"http_request_body": "\ud800"},
        {"http_request_body": {"a": ["\ud800"]}},
        {"http_request_body": {"\ud800": 1}},
        {"http_request_body": {"a": float("nan")}},
        {"http_request_body": {"a": float("inf")}},
        {"http_request_body": {"a": b"bytes"}},
        {"http_request_body": NESTED},
    ],
)
def test_what_can_be_neither_stored_nor_sent_is_refused(part: dict[str, Any]) -> None:
    """Half a character, and what JSON cannot say: by the name of the field, before anything is written."""
    with pytest.raises((InvalidValue, ValidationError)) as caught:
        RequestSpec(url=URL, **part)
    error = caught.value if isinstance(caught.value, InvalidValue) else invalid_from(caught.value)
    assert next(iter(part)) in str(error)
    assert str(error).isprintable()


SECRET_PARTS: list[dict[str, Any]] = [
    {"http_header_fields": {"Authorization": ["Bearer s3cret"]}},
    {"http_header_fields": "Authorization: Bearer s3cret"},
    {"http_request_body": ["s3cret"]},
    {"http_query_params": {"api_key": {"value": "s3cret"}}},
    {"http_query_params": "token=s3cret"},
    {"http_query_params": {"api_key": ["s3cret", 5, {"also": "s3cret"}]}},
]


@pytest.mark.parametrize("part", SECRET_PARTS)
def test_a_secret_of_the_wrong_type_is_not_in_the_error(part: dict[str, Any]) -> None:
    """Invariant 9: fields, bodies and query parameters are never echoed."""
    with pytest.raises(ValidationError) as caught:
        RequestSpec.model_validate({"url": URL, **part})
    error = invalid_from(caught.value)
    assert next(iter(part)) in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.parametrize("part", SECRET_PARTS)
def test_what_pydantic_itself_says_holds_no_secret(part: dict[str, Any]) -> None:
    """Invariant 9: it is the cause of our error, and what a Python caller of `RequestSpec` sees."""
    with pytest.raises(ValidationError) as caught:
        RequestSpec.model_validate({"url": URL, **part})
    assert "s3cret" not in str(caught.value)


def test_a_url_of_the_wrong_type_is_not_echoed_with_its_password() -> None:
    """Invariant 9 holds for what is no URL at all."""
    with pytest.raises(ValidationError) as caught:
        RequestSpec.model_validate({"url": ["https://me:s3cret@data.example/"]})
    assert "s3cret" not in str(invalid_from(caught.value))


# --- what is sent ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (None, (None, None)),
        ({}, (None, None)),
        ("", (None, None)),
        ({"a": "ä"}, ('{"a": "ä"}'.encode(), "application/json")),
        ("ä", ("ä".encode(), "text/plain; charset=utf-8")),
    ],
)
def test_a_registered_body_is_sent_by_its_kind(body: Any, sent: tuple[bytes | None, str | None]) -> None:
    """Null and ``{}`` send nothing, a dict is sent as JSON, a str as it is."""
    assert body_to_send(body) == sent


# --- identity ----------------------------------------------------------------------------------------------------

FULL: dict[str, Any] = {
    "url": URL,
    "http_method": "post",
    "http_header_fields": {"Accept": "text/csv", "X-Token": "abc"},
    "http_query_params": {"a": "1", "b": ["2", "3"]},
    "http_request_body": {"x": 1, "y": {"z": 2}},
    "group_name": "mine",
}

SAME: list[dict[str, Any]] = [
    {"url": "HTTPS://Data.Example:443/set.bin#part"},
    {"http_header_fields": {"x-TOKEN": "abc", "ACCEPT": "text/csv"}},
    {"http_query_params": {"b": ["2", "3"], "a": "1"}},
    {"http_request_body": {"y": {"z": 2}, "x": 1}},
    {"description": "other"},
    {"documentation_link": "https://docs.example/"},
    {"validation_hash_type": "md5"},
    {"cache_configuration": {"max_cached_unpinned_versions": 5}},
]

DIFFERENT: list[dict[str, Any]] = [
    {"url": URL + "x"},
    {"url": "http://data.example/set.bin"},
    {"url": URL + "?"},
    {"http_method": "put"},
    {"http_header_fields": {"Accept": "text/csv", "X-Token": "abC"}},
    {"http_header_fields": {"Accept": "text/csv"}},
    {"http_header_fields": None},
    {"http_query_params": {"a": "1", "b": ["3", "2"]}},
    {"http_query_params": {"a": "1", "b": "2"}},
    {"http_query_params": {"A": "1", "b": ["2", "3"]}},
    {"http_query_params": None},
    {"http_request_body": {"x": 1, "y": {"z": 3}}},
    {"http_request_body": {"x": "1", "y": {"z": 2}}},
    {"http_request_body": '{"x": 1, "y": {"z": 2}}'},
    {"http_request_body": None},
    {"group_name": "Mine"},
]


@pytest.mark.parametrize("change", SAME)
def test_spelling_and_settings_do_not_change_the_signature(change: dict[str, Any]) -> None:
    """Order of keys, case of field names, the URL's spelling, and what is not part of the ask."""
    assert RequestSpec(**FULL | change).signature() == RequestSpec(**FULL).signature()


@pytest.mark.parametrize("change", DIFFERENT)
def test_each_part_of_the_ask_changes_the_signature(change: dict[str, Any]) -> None:
    """Method, URL, params, fields, body and group."""
    assert RequestSpec(**FULL | change).signature() != RequestSpec(**FULL).signature()


def test_all_signatures_of_different_asks_differ() -> None:
    """Not only from the first one."""
    signatures = {RequestSpec(**FULL | change).signature() for change in DIFFERENT}
    assert len(signatures) == len(DIFFERENT)


@pytest.mark.parametrize(
    "nothing", [{"http_request_body": {}}, {"http_request_body": ""}, {"http_query_params": {}}]
)
def test_what_sends_nothing_is_nothing(nothing: dict[str, Any]) -> None:
    """An empty body or empty params are none."""
    assert RequestSpec(url=URL, **nothing).signature() == RequestSpec(url=URL).signature()


def test_a_signature_never_changes() -> None:
    """Folders outlive releases: the canonical JSON is part of the format. Its SHA-256, in hex."""
    text = (
        '{"body":{"x":1,"y":{"z":2}},"fields":[["accept","text/csv"],["x-token","abc"]],"group":"mine",'
        '"method":"post","params":{"a":"1","b":["2","3"]},"url":"https://data.example/set.bin"}'
    )
    assert RequestSpec(**FULL).signature() == hashlib.sha256(text.encode()).hexdigest()
