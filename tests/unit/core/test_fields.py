"""Header fields: holding, checking and parsing them (RFC 9110)."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.fields import (
    MAX_WAIT_S,
    SECRET_FIELDS,
    AmbiguousLength,
    Fields,
    Forward,
    accepts_by_name,
    check_field,
    content_length,
    digest_preference,
    etags_match_strongly,
    etags_match_weakly,
    format_age,
    format_cache_status,
    format_digest,
    format_http_date,
    format_links,
    is_secret_field,
    is_sendable,
    is_strong_etag,
    media_type,
    parse_http_date,
    parse_retry_after,
    year_at,
)
from forebay.errors import InvalidValue

NOV_1994 = 784111777.0  # RFC 9110 section 5.6.7: Sun, 06 Nov 1994 08:49:37 GMT

# --- Fields: section 5 --------------------------------------------------------------------------------


def test_names_are_found_in_any_case_and_kept_as_spelled() -> None:
    """Section 5.1: names are case-insensitive; iterating gives them as they came."""
    fields = Fields([("ETag", '"a"'), ("VIA", "1"), ("via", "2")])
    assert fields.get("etag") == '"a"'
    assert fields.all("Via") == ["1", "2"]
    assert fields.get("via") == "1"
    assert "eTAG" in fields
    assert list(fields) == [("ETag", '"a"'), ("VIA", "1"), ("via", "2")]
    assert len(fields) == 3


def test_an_absent_field_is_none_and_no_values() -> None:
    """Asking for what is not there is no error."""
    fields = Fields()
    assert fields.get("Date") is None
    assert fields.all("Date") == []
    assert "Date" not in fields
    assert 5 not in fields
    assert len(fields) == 0


def test_field_lines_are_joined_by_commas() -> None:
    """Section 5.3: several lines of one name are one list, in order."""
    fields = Fields([("Via", "1"), ("ETag", '"a"'), ("via", "2, 3")])
    assert fields.joined("VIA") == "1, 2, 3"
    assert fields.joined("etag") == '"a"'
    assert fields.joined("Date") is None
    assert Fields([("Range", "")]).joined("Range") == ""


def test_a_list_of_values_is_a_copy() -> None:
    """What a caller does to the values does not change the fields."""
    fields = Fields([("Via", "1")])
    fields.all("via").append("2")
    assert fields.all("via") == ["1"]


def test_pairs_may_come_from_an_iterator() -> None:
    """The pairs are taken once, at construction."""
    fields = Fields(pair for pair in [("A", "1")])
    assert list(fields) == list(fields) == [("A", "1")]


def test_order_counts_within_a_name_only() -> None:
    """Section 5.3: the order of fields with different names is not significant."""
    one = Fields([("A", "1"), ("B", "2")])
    assert one == Fields([("b", "2"), ("a", "1")])
    assert hash(one) == hash(Fields([("b", "2"), ("a", "1")]))
    assert Fields([("A", "1"), ("A", "2")]) != Fields([("A", "2"), ("A", "1")])
    assert one != [("A", "1"), ("B", "2")]


def test_a_repr_masks_secrets() -> None:
    """DESIGN.md section 2, number 9: no secret in what may become a log line, also not in a URL."""
    shown = repr(
        Fields(
            [
                ("Authorization", "Bearer hunter2"),
                ("Set-Cookie", "id=hunter2"),
                ("Location", "https://a/?X-Amz-Signature=hunter2&b=1"),
                ("ETag", '"a"'),
            ]
        )
    )
    assert "hunter2" not in shown
    assert "('Authorization', '***')" in shown
    assert "('ETag', '\"a\"')" in shown
    assert "b=1" in shown


# --- what may be sent: sections 5.1, 5.5, 5.6.2 -------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Accept", "*/*"),
        ("x-1_!#$%&'*+.^`|~", ""),
        ("A", "tab\tand space"),
        ("A", "caf\u00e9"),
        ("A", "\x80\xff"),
    ],
)
def test_a_token_with_printable_latin1_can_be_sent(name: str, value: str) -> None:
    """Sections 5.1 and 5.5: a token, then visible characters, spaces, tabs and obs-text."""
    check_field(name, value)
    assert is_sendable(value)


@pytest.mark.parametrize("name", ["", " A", "A ", "A:", "A\n", "A\r\nB", "caf\u00e9", "A B", "(A)", "A\x00", "A/B"])
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    """Section 5.6.2: anything else cannot be sent, and cannot smuggle a second field."""
    with pytest.raises(InvalidValue, match="token"):
        check_field(name, "x")


@pytest.mark.parametrize("bad", ["\r", "\n", "\x00", "\x01", "\x1f", "\x7f", "\u0100", "\u20ac", "\ud800"])
def test_a_value_that_cannot_be_sent_is_refused(bad: str) -> None:
    """Section 5.5: control characters and what is not latin-1; the error says which and where."""
    with pytest.raises(InvalidValue) as caught:
        check_field("X-Note", f"hunter2{bad}")
    assert str(caught.value).startswith("header field X-Note: ")
    assert f"U+{ord(bad):04X} at position 7" in str(caught.value)
    assert not is_sendable(f"hunter2{bad}")


def test_an_error_about_a_field_holds_no_secret() -> None:
    """DESIGN.md section 2, number 9: neither as a value nor pasted into the name."""
    with pytest.raises(InvalidValue) as caught:
        check_field("Authorization", "Basic hunter2\n")
    assert "hunter2" not in repr(caught.value) + str(caught.value)
    with pytest.raises(InvalidValue) as caught:
        check_field("Authorization: Basic hunter2", "")
    assert "hunter2" not in repr(caught.value) + str(caught.value)
    assert caught.value.got == "Authorization:"


@given(st.text(), st.text())
def test_a_field_that_passes_is_one_line_on_the_wire(name: str, value: str) -> None:
    """Whatever is let through encodes as latin-1 and cannot end its line."""
    try:
        check_field(name, value)
    except InvalidValue:
        return
    line = f"{name}: {value}".encode("latin-1")
    assert not {0, 10, 13} & set(line)
    assert name


@pytest.mark.parametrize(
    "name",
    [
        *sorted(SECRET_FIELDS),
        "AUTHORIZATION",
        "X-API-Key",
        "Api_Key",
        "apikey",
        "X-Amz-Security-Token",
        "X-Vault-Token",
        "X-Client-Secret",
        "X-Password",
        "X-Hub-Signature-256",
        "X-Amz-Credential",
        "Ocp-Apim-Subscription-Key",
        "X-Session-Id",
        "X-Amz-Server-Side-Encryption-Customer-Key",
    ],
)
def test_names_of_secrets_are_known(name: str) -> None:
    """Fields that carry credentials are secret, whoever invented them."""
    assert is_secret_field(name)


@pytest.mark.parametrize(
    "name",
    ["Accept", "ETag", "User-Agent", "WWW-Authenticate", "Idempotency-Key", "Location", "Content-Type"],
)
def test_ordinary_names_are_not_secret(name: str) -> None:
    """A challenge or a key that opens nothing is shown: hiding it would only hinder people."""
    assert not is_secret_field(name)


# --- dates: section 5.6.7 -----------------------------------------------------------------------------

DATES = [
    ("Sun, 06 Nov 1994 08:49:37 GMT", NOV_1994),
    ("Sunday, 06-Nov-94 08:49:37 GMT", NOV_1994),
    ("Sun Nov  6 08:49:37 1994", NOV_1994),
    ("Sun Nov 16 08:49:37 1994", NOV_1994 + 864_000),
    (" Sun, 06 Nov 1994 08:49:37 GMT ", NOV_1994),
    ("Sun, 6 Nov 1994 08:49:37 GMT", NOV_1994),
    ("Sun, 06-Nov-1994 08:49:37 GMT", NOV_1994),
    ("Sun, 06 nov 1994 08:49:37 UTC", NOV_1994),
    ("Mon, 06 Nov 1994 08:49:37 GMT", NOV_1994),
    ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ("Wed, 31 Dec 1969 23:59:59 GMT", -1.0),
    ("Sat, 31 Dec 2016 23:59:60 GMT", 1483228800.0),
    ("Fri, 31 Dec 9999 23:59:59 GMT", 253402300799.0),
]

NO_DATES = [
    None,
    "",
    "0",
    "-1",
    "Sun, 06 Nov 1994 08:49:37",
    "Sun, 06 Nov 1994 08:49:37 PST",
    "Sun, 06 Nov 1994 08:49:37 +0100",
    "Sun, 06 Foo 1994 08:49:37 GMT",
    "Sun, 31 Feb 1994 08:49:37 GMT",
    "Sun, 06 Nov 1994 24:00:00 GMT",
    "Sun, 06 Nov 1994 08:60:00 GMT",
    "Sun, 06 Nov 1994 08:49:61 GMT",
    "Sun, 06 Nov 0000 08:49:37 GMT",
    "Fri, 31 Dec 9999 23:59:60 GMT",
    "Sun, ٠٦ Nov 1994 08:49:37 GMT",
    "1994-11-06T08:49:37Z",
]


@pytest.mark.parametrize(("value", "expected"), DATES)
def test_all_three_forms_of_a_date_are_read(value: str, expected: float) -> None:
    """A recipient accepts IMF-fixdate, RFC 850 and asctime, and is robust about what servers send."""
    assert parse_http_date(value) == expected


@pytest.mark.parametrize("value", NO_DATES)
def test_what_is_no_date_is_none(value: str | None) -> None:
    """Malformed dates and impossible times say nothing."""
    assert parse_http_date(value) is None


@pytest.mark.parametrize(
    ("two_digits", "now_year", "year"),
    [
        (94, 2026, 1994),
        (26, 2026, 2026),
        (76, 2026, 2076),
        (77, 2026, 1977),
        (0, 2026, 2000),
        (1, 2099, 2101),
    ],
)
def test_a_two_digit_year_is_at_most_50_years_ahead(two_digits: int, now_year: int, year: int) -> None:
    """A date that appears to be more than 50 years ahead is the most recent one with those digits."""
    value = parse_http_date(f"Sunday, 06-Nov-{two_digits:02} 08:49:37 GMT", now_year=now_year)
    assert value == parse_http_date(f"Sun, 06 Nov {year} 08:49:37 GMT")


@pytest.mark.parametrize(
    ("date", "year"),
    [
        ("Thu, 01 Jan 1970 12:00:00 GMT", 1970),
        ("Wed, 01 Jul 2026 00:00:00 GMT", 2026),
        ("Thu, 02 Jan 2076 00:00:00 GMT", 2076),
        ("Thu, 30 Dec 2100 00:00:00 GMT", 2100),
    ],
)
def test_the_year_of_a_moment(date: str, year: int) -> None:
    """What two-digit years are measured by."""
    unix_s = parse_http_date(date)
    assert unix_s is not None
    assert year_at(unix_s) == year


@given(st.integers(-62135596800, 253402300799))
def test_a_date_comes_back(unix_s: int) -> None:
    """Every second of the years 1 to 9999 survives formatting and parsing."""
    assert parse_http_date(format_http_date(unix_s)) == unix_s


def test_a_date_is_an_imf_fixdate_rounded_down() -> None:
    """A sender generates the IMF-fixdate; a fraction of a second would claim a later one if rounded up."""
    assert format_http_date(NOV_1994) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert format_http_date(NOV_1994 + 0.9) == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert format_http_date(-0.5) == "Wed, 31 Dec 1969 23:59:59 GMT"


# --- Retry-After: section 10.2.3 ----------------------------------------------------------------------

LATER = "Sun, 06 Nov 1994 08:50:37 GMT"  # a minute after NOV_1994

WAITS = [
    ("120", None, 120.0),
    (" 0 ", None, 0.0),
    ("9" * 400, None, MAX_WAIT_S),
    ("9" * 10_000, None, MAX_WAIT_S),
    (LATER, None, 60.0),
    (LATER, "Sun, 06 Nov 1994 08:50:07 GMT", 30.0),
    (LATER, "yesterday", 60.0),
    (LATER, "Sun, 06 Nov 1994 09:00:00 GMT", 0.0),
    ("Fri, 31 Dec 9999 23:59:59 GMT", None, MAX_WAIT_S),
    ("Sunday, 06-Nov-94 08:50:37 GMT", "Sunday, 06-Nov-94 08:50:07 GMT", 30.0),
    (None, None, None),
    ("", None, None),
    ("-1", None, None),
    ("1.5", None, None),
    ("1e3", None, None),
    ("²", None, None),
    ("soon", "Sun, 06 Nov 1994 08:50:07 GMT", None),
]


@pytest.mark.parametrize(("value", "date", "expected"), WAITS)
def test_a_retry_after_is_seconds_by_the_origins_clock(
    value: str | None, date: str | None, expected: float | None
) -> None:
    """Seconds or a date, and the date against the origin's own Date where there is one."""
    assert parse_retry_after(value, now_unix=NOV_1994, date=date) == expected


@given(st.text(), st.floats(0, 2**40), st.none() | st.text())
def test_a_wait_is_never_negative_and_never_endless(value: str, now_unix: float, date: str | None) -> None:
    """Whatever an origin says, the wait is unknown or within bounds."""
    wait = parse_retry_after(value, now_unix=now_unix, date=date)
    assert wait is None or 0 <= wait <= MAX_WAIT_S


# --- entity tags: section 8.8.3 -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "strong"),
    [
        ('"xyzzy"', True),
        ('""', True),
        (' "a" ', True),
        ('"a,b"', True),
        ('"\xe9"', True),
        ('W/"xyzzy"', False),
        ('w/"xyzzy"', False),
        ("xyzzy", False),
        ('"a', False),
        ('a"', False),
        ('"a"b"', False),
        ('"a b"', False),
        ('"a\x7f"', False),
        ('"€"', False),
        ('"a", "b"', False),
        ("", False),
        (None, False),
    ],
)
def test_only_a_wellformed_tag_without_w_is_strong(value: str | None, strong: bool) -> None:
    """A tag that breaks the grammar proves nothing."""
    assert is_strong_etag(value) is strong


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        ('W/"1"', 'W/"1"', False),
        ('W/"1"', 'W/"2"', False),
        ('W/"1"', '"1"', False),
        ('"1"', 'W/"1"', False),
        ('"1"', '"1"', True),
        ('"1"', ' "1"', True),
        ('"a"', '"A"', False),
        ("1", "1", False),
        (None, None, False),
        ('"1"', None, False),
    ],
)
def test_strong_comparison(a: str | None, b: str | None, match: bool) -> None:
    """Section 8.8.3.2: the table of the specification, and what is absent or malformed never matches."""
    assert etags_match_strongly(a, b) is match


@pytest.mark.parametrize(
    ("a", "b", "match"),
    [
        ('W/"1"', 'W/"1"', True),
        ('W/"1"', 'W/"2"', False),
        ('W/"1"', '"1"', True),
        ('"1"', ' W/"1" ', True),
        ('"1"', '"1"', True),
        ('"a"', '"A"', False),
        ('w/"1"', '"1"', False),
        ('W/W/"1"', '"1"', False),
        ('W/ "1"', 'W/ "2"', False),
        ("W/1", "W/1", False),
        (None, None, False),
        (None, '"1"', False),
    ],
)
def test_weak_comparison(a: str | None, b: str | None, match: bool) -> None:
    """Section 8.8.3.2: the table of the specification; the opaque tags decide, malformed ones never match."""
    assert etags_match_weakly(a, b) is match


# --- Content-Length: section 8.6 ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        (["0"], 0),
        ([" 42 "], 42),
        (["42", "42"], 42),
        (["42, 42"], 42),
        (["42,42", "42"], 42),
        (["9223372036854775807"], 2**63 - 1),
    ],
)
def test_one_length_however_often_it_is_said(values: list[str], expected: int | None) -> None:
    """Equal repeated values are one length."""
    assert content_length(Fields([("Content-Length", value) for value in values])) == expected


@pytest.mark.parametrize(
    "values",
    [
        ["42", "43"],
        ["42, 43"],
        ["42", "x"],
        [""],
        ["42,"],
        ["-1"],
        ["+1"],
        ["1.0"],
        ["0x2a"],
        ["4_2"],
        ["٤"],
        ["²"],
        ["9223372036854775808"],
        ["9" * 10_000],
    ],
)
def test_a_length_that_is_not_one_is_ambiguous(values: list[str]) -> None:
    """Different, malformed and impossible lengths are refused: guessing is how messages are smuggled."""
    with pytest.raises(AmbiguousLength, match="Content-Length") as caught:
        content_length(Fields([("content-length", value) for value in values]))
    assert isinstance(caught.value, ValueError)
    assert len(str(caught.value)) < 200


# --- Content-Type: section 8.3.1 ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("text/html", "text/html"),
        ("Text/HTML; Charset=UTF-8", "text/html"),
        ("text/html ;", "text/html"),
        (" application/vnd.api+json\t", "application/vnd.api+json"),
        (None, None),
        ("", None),
        ("html", None),
        ("text/", None),
        ("/html", None),
        ("text/html/x", None),
        ("text /html", None),
        ("text/html, text/plain", None),
        ("text/é", None),
    ],
)
def test_a_media_type_is_type_and_subtype(value: str | None, expected: str | None) -> None:
    """Lower case without parameters; what is malformed is none."""
    assert media_type(value) == expected


# --- digests: RFC 9530 --------------------------------------------------------------------------------


def test_a_digest_is_a_byte_sequence_of_its_algorithm() -> None:
    """RFC 9530 appendix B.1: the digest of its JSON example."""
    hex_digest = hashlib.sha256(b'{"hello": "world"}\n').hexdigest()
    assert format_digest("sha-256", hex_digest) == "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"


@pytest.mark.parametrize(
    ("value", "preference"),
    [
        ("sha-256=1", 1),
        ("sha-512=3, sha-256=10, unixsum=0", 10),
        ("sha-256=0", 0),
        ("sha-256=3, sha-256=0", 0),
        ("sha-512=5", None),
        ("sha-256=11", None),
        ("sha-256=-1", None),
        ("sha-256=1.0", None),
        ("sha-256", None),
        ("sha-256=(1)", None),
        ("SHA-256=1", None),
        ("sha-256=1,", None),
        ("", None),
        (None, None),
    ],
)
def test_how_much_a_digest_is_wanted(value: str | None, preference: int | None) -> None:
    """RFC 9530 section 4: integers from 0 to 10; anything else is as if it was not said."""
    assert digest_preference(value, "sha-256") == preference


# --- caches: RFC 9211, RFC 9111 -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "ttl_s", "detail", "shown"),
    [
        (None, None, None, "forebay; hit"),
        (None, 376.9, None, "forebay; hit; ttl=376"),
        (None, -412, None, "forebay; hit; ttl=-412"),
        (None, float("inf"), None, "forebay; hit"),
        (None, 1e300, None, "forebay; hit; ttl=999999999999999"),
        (None, None, "origin_unreachable", "forebay; hit; detail=origin_unreachable"),
        (None, -3, 'it said: "no"', 'forebay; hit; ttl=-3; detail="it said: \\"no\\""'),
        (Forward("uri-miss"), None, None, "forebay; fwd=uri-miss"),
        (Forward("stale", status=304), 60, None, "forebay; fwd=stale; fwd-status=304; ttl=60"),
        (Forward("uri-miss", stored=True, collapsed=True), None, None, "forebay; fwd=uri-miss; stored; collapsed"),
        (Forward("stale", collapsed=True), None, "x", "forebay; fwd=stale; collapsed; detail=x"),
    ],
)
def test_a_cache_status_says_hit_or_forward(
    forward: Forward | None, ttl_s: float | None, detail: str | None, shown: str
) -> None:
    """RFC 9211 section 2: "hit" and "fwd" are exclusive; stored and collapsed only mean something with "fwd"."""
    assert format_cache_status(forward, ttl_s=ttl_s, detail=detail) == shown
    check_field("Cache-Status", shown)


@pytest.mark.parametrize(
    ("age_s", "shown"), [(0, "0"), (59.9, "59"), (-5, "0"), (1e12, "2147483648"), (float("inf"), "2147483648")]
)
def test_an_age_is_whole_seconds_within_bounds(age_s: float, shown: str) -> None:
    """RFC 9111 section 5.1: a non-negative number of seconds; section 1.2.2: at most 2 to the 31st."""
    assert format_age(age_s) == shown


# --- Link: RFC 8288 -----------------------------------------------------------------------------------


def test_links_are_targets_with_their_relations() -> None:
    """RFC 8288 section 3; the relation types are those of RFC 5829."""
    links = [
        ("predecessor-version", "/v1/request/a/response/v/1/content"),
        ("successor-version", "../v/3?x=1,2;y#z"),
    ]
    assert format_links(links) == (
        '</v1/request/a/response/v/1/content>; rel="predecessor-version", '
        '<../v/3?x=1,2;y#z>; rel="successor-version"'
    )


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_target_cannot_end_early(target: str) -> None:
    """Whatever is in a target, it is one link and can be sent."""
    shown = format_links([("self", target)])
    check_field("Link", shown)
    assert shown.count(">") == 1
    assert shown.isascii()


def test_a_target_that_is_percent_encoded_stays_so() -> None:
    """Encoding twice would name another resource."""
    assert format_links([("self", "/r/http%3A%2F%2Fa%2Fb c")]) == '</r/http%3A%2F%2Fa%2Fb%20c>; rel="self"'


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, False), ("", False), ("*/*", False), ("text/html", False), ("a/b", True), ("A/B ; q=0.1", True),
        ("a/*", True), ("a/b;q=0", False), ("a/*, a/b;q=0.000", False), ("a/b, a/*;q=0", True), ("x/y,,a/b", True),
    ],
)  # fmt: skip
def test_a_type_is_accepted_by_its_name(value: str | None, wanted: bool) -> None:
    """RFC 9110 section 12.5.1: the most exact member decides; one for everything names nothing."""
    assert accepts_by_name(value, "a/b") is wanted
