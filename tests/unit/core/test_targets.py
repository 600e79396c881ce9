"""What stands behind the door: the URL that was put there comes out again."""

from __future__ import annotations

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forebay.core.targets import OWN_PREFIX, target_of
from forebay.core.urls import normalise_url


@pytest.mark.parametrize(
    ("path", "query", "url"),
    [
        # As it came: the origin's own ways of writing a path are not ours to tidy.
        (b"https://h/a", b"", "https://h/a"),
        (b"http://h", b"", "http://h"),
        (b"https://h:8443/a//b/../c/./d;v=1", b"", "https://h:8443/a//b/../c/./d;v=1"),
        (b"https://h/a%2Fb%20c%3Fd%25", b"", "https://h/a%2Fb%20c%3Fd%25"),
        ("https://h/käse".encode(), b"", "https://h/käse"),
        (b"https://[::1]:8080/a", b"", "https://[::1]:8080/a"),
        (b"http://h/http://other/x", b"", "http://h/http://other/x"),
        # A slash that was lost on the way, or more of them.
        (b"http:/h/a", b"", "http://h/a"),
        (b"https:h/a", b"", "https://h/a"),
        (b"HTTP:/h/a//b", b"", "HTTP://h/a//b"),
        (b"http:///h/a", b"", "http://h/a"),
        # Quoted as a whole, in whatever case, and only once.
        (b"https%3A%2F%2Fh%2Fa%20b%3Fx%3D1%26y", b"", "https://h/a b?x=1&y"),
        (b"HTTPS%3a%2f%2fh%2fa", b"", "HTTPS://h/a"),
        (b"http%3A%2F%2Fh%2Fa%252Fb", b"", "http://h/a%2Fb"),
        (b"http%3A//h/a%2Fb", b"", "http://h/a/b"),
        (b"http%3A%2Fh%2Fa", b"", "http://h/a"),
        (b"http%3A%2F%2Fh%2Fk%C3%A4se", b"", "http://h/käse"),
        # What such a URL has of a fragment goes no further; else it would swallow the query behind it.
        (b"http%3A%2F%2Fh%2Fa%23part", b"x=1", "http://h/a?x=1"),
        (b"http%3A%2F%2Fh%2Fa%3Fx%3D1%23part", b"", "http://h/a?x=1"),
        # The query, exactly as it came.
        (b"http://h/a", b"x=1&y=%26&&z", "http://h/a?x=1&y=%26&&z"),
        (b"http://h/a", b"&", "http://h/a?&"),
        (b"http://h/a", b"a?b", "http://h/a?a?b"),
        (b"http%3A%2F%2Fh%2Fa%3Fx%3D1", b"y=2", "http://h/a?x=1&y=2"),
        # Not ours to judge: whoever registers it does.
        (b"ftp://h/a", b"", "ftp://h/a"),
        (b"", b"", ""),
        (b"forebay:x", b"", "forebay:x"),
        (b"forebay%3Ax%2Fy", b"", "forebay:x/y"),
    ],
)
def test_the_url_that_is_meant(path: bytes, query: bytes, url: str) -> None:
    """Percent-encoding, ``//`` and ``..`` stay; what was mangled on the way is mended."""
    target = target_of(path, query)
    assert (target.url, target.own) == (url, {})


@pytest.mark.parametrize(
    ("query", "url", "own"),
    [
        (b"forebay-version=v", "http://h/a", {"version": "v"}),
        (b"x=1&forebay-tag=good&y=2", "http://h/a?x=1&y=2", {"tag": "good"}),
        (b"forebay-tag=a&x=1&forebay-tag=b", "http://h/a?x=1", {"tag": "b"}),
        (b"Forebay-Tag=a%20b+c", "http://h/a", {"tag": "a b c"}),
        (b"forebay-verified", "http://h/a", {"verified": ""}),
        (b"forebay-=x", "http://h/a", {"": "x"}),
        (b"forebay-a=%C3%A4", "http://h/a", {"a": "ä"}),
        # Not ours: another name, or one that is written otherwise; that is how to reach an origin that has such.
        (b"forebayversion=v", "http://h/a?forebayversion=v", {}),
        (b"%66orebay-version=v", "http://h/a?%66orebay-version=v", {}),
        (b"x=forebay-version=v", "http://h/a?x=forebay-version=v", {}),
    ],
)
def test_parameters_of_our_own(query: bytes, url: str, own: dict[str, str]) -> None:
    """Those that begin with ``forebay-`` are taken out, in any case; of several of one name the last counts."""
    target = target_of(b"http://h/a", query)
    assert (target.url, target.own) == (url, own)


def test_our_parameters_inside_a_quoted_url_are_the_origins() -> None:
    """Quoting a URL as a whole says exactly which one is meant."""
    target = target_of(b"http%3A%2F%2Fh%2Fa%3Fforebay-tag%3Dtheirs", b"forebay-tag=ours")
    assert target == ("http://h/a?forebay-tag=theirs", {"tag": "ours"})


@pytest.mark.parametrize(
    ("path", "query"), [(b"http://h/\xff", b""), (b"http%3A%2F%2Fh%2F%FF", b""), (b"", b"\xff")]
)
def test_bytes_that_are_no_text_are_an_error(path: bytes, query: bytes) -> None:
    """There is no URL in them."""
    with pytest.raises(UnicodeDecodeError):
        target_of(path, query)


_SEGMENT = st.text("abz09-._~!$&'()*+,;=:@%2Fé ", max_size=6)
_PATHS = st.lists(_SEGMENT, max_size=5).map(lambda segments: "/" + "/".join(segments))
_PARAMETER = st.text("abz09-._~!$'()*+,;=:@/?%2Fé", min_size=1, max_size=8).filter(
    lambda part: not part.lower().startswith(OWN_PREFIX)
)
_QUERIES = st.lists(_PARAMETER, max_size=4).map("&".join)
_HOSTS = st.sampled_from(["h", "h.example:8080", "[::1]", "h.example"])


@given(st.sampled_from(["http", "https", "HTTP"]), _HOSTS, _PATHS, _QUERIES, st.booleans())
def test_what_is_put_behind_the_door_comes_out_again(
    scheme: str, host: str, path: str, query: str, ours: bool
) -> None:
    """Raw, split at the question mark as HTTP splits it; with a parameter of ours among theirs; or quoted."""
    start = f"{scheme}://{host}{path}"
    url = f"{start}?{query}" if query else start
    sent = "&".join(part for part in (query, "forebay-version=v" if ours else "") if part)
    own = {"version": "v"} if ours else {}
    assert target_of(start.encode(), sent.encode()) == (url, own)
    for safe in ("", "/"):
        assert target_of(quote(url, safe=safe).encode(), b"forebay-version=v" if ours else b"") == (url, own)


@given(_HOSTS, _PATHS, _QUERIES)
def test_a_registered_url_goes_in_and_out_unchanged(host: str, path: str, query: str) -> None:
    """The spelling that identifies a Request leads to that Request."""
    url = normalise_url(f"http://{host}{path}?{query}" if query else f"http://{host}{path}")
    path, _, query = url.partition("?")
    assert normalise_url(target_of(path.encode(), query.encode()).url) == url


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_are_a_target_or_no_text(path: bytes, query: bytes) -> None:
    """Nothing else comes of them."""
    with suppress(UnicodeDecodeError):
        target_of(path, query)
