"""URLs: what is fetched, what is shown, where a redirect leads (RFC 3986, RFC 9110 sections 4 and 10.2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from forebay.core.urls import (
    MAX_URL_BYTES,
    is_secret_parameter,
    normalise_url,
    origin_of,
    request_url,
    resolve_redirect,
    show_url,
    upload_url,
    with_query,
)
from forebay.errors import InvalidUrl, InvalidValue

# --- the spelling that is fetched ---------------------------------------------------------------------

NORMALISED = [
    # RFC 3986 section 6.2.2.1: scheme and host in lower case, the rest not
    ("HTTP://EXAMPLE.com/Path?Query", "http://example.com/Path?Query"),
    ("  https://example.com/\n", "https://example.com/"),
    # section 6.2.3: default port, empty path
    ("http://example.com:80", "http://example.com/"),
    ("https://example.com:443/", "https://example.com/"),
    ("https://example.com:/", "https://example.com/"),
    ("http://example.com:443/", "http://example.com:443/"),
    ("http://example.com:00080/", "http://example.com/"),
    ("http://example.com:65535?a", "http://example.com:65535/?a"),
    # fragments are not sent; an empty query is
    ("http://example.com/a#b", "http://example.com/a"),
    ("http://example.com/a?#b?c", "http://example.com/a?"),
    ("http://example.com#@b", "http://example.com/"),
    # left alone: they may mean something to the origin
    ("http://example.com//a/../b/./c//", "http://example.com//a/../b/./c//"),
    ("http://example.com/%7e%2F%zz%?a=%20+b", "http://example.com/%7e%2F%zz%?a=%20+b"),
    ("http://example.com/a;b=1,2:@!$&'()*+~[x]", "http://example.com/a;b=1,2:@!$&'()*+~[x]"),
    # encoded as UTF-8
    ("http://example.com/a b?c d", "http://example.com/a%20b?c%20d"),
    ("http://example.com/ä?ö=\u20ac", "http://example.com/%C3%A4?%C3%B6=%E2%82%AC"),
    ('http://example.com/"<>\\^`{|}', "http://example.com/%22%3C%3E%5C%5E%60%7B%7C%7D"),
    ("http://example.com/\u00a0\u2028x\u3000", "http://example.com/%C2%A0%E2%80%A8x"),
    # hosts: RFC 3986 section 3.2.2, RFC 3490
    ("http://Bücher.example/", "http://xn--bcher-kva.example/"),
    ("http://xn--bcher-kva.example/", "http://xn--bcher-kva.example/"),
    ("http://例え。テスト/", "http://xn--r8jz45g.xn--zckzah/"),
    ("http://b%C3%BCcher.example/", "http://xn--bcher-kva.example/"),
    ("http://ex%61mple.com/", "http://example.com/"),
    ("http://\uff45xample.com/", "http://example.com/"),
    ("http://my_host-1.example./", "http://my_host-1.example./"),
    ("http://localhost:8000", "http://localhost:8000/"),
    # odd spellings of addresses pass; the gate decides after resolution
    ("http://127.0.0.1/", "http://127.0.0.1/"),
    ("http://0x7f.1/", "http://0x7f.1/"),
    ("http://127.1/", "http://127.1/"),
    ("http://2130706433/", "http://2130706433/"),
    ("http://0177.0.0.1/", "http://0177.0.0.1/"),
    ("http://\uff11\uff12\uff17.1/", "http://127.1/"),
    ("http://[::1]", "http://[::1]/"),
    ("http://[0:0:0:0:0:0:0:1]:80/", "http://[::1]/"),
    ("http://[2001:DB8::A]:8080/x", "http://[2001:db8::a]:8080/x"),
    ("http://[::ffff:7f00:1]/", "http://[::ffff:127.0.0.1]/"),
    ("http://[::ffff:127.0.0.1]:/", "http://[::ffff:127.0.0.1]/"),
    # RFC 6874: zone ids
    ("http://[fe80::1%25eth0]/", "http://[fe80::1%25eth0]/"),
    ("http://[fe80::1%eth0]/", "http://[fe80::1%25eth0]/"),
    ("http://[fe80::1%25]/", "http://[fe80::1%2525]/"),
]

REFUSED = [
    ("", "http://"),
    ("example.com", "http://"),
    ("//example.com/", "http://"),
    ("localhost:8000/", "http://"),
    ("ftp://example.com/", "http://"),
    ("file:///etc/passwd", "http://"),
    ("javascript:alert(1)", "http://"),
    ("1http://example.com/", "http://"),
    ("http:example.com", "no host"),
    ("http:/example.com", "no host"),
    ("http:///example.com", "no host"),
    ("http://", "no host"),
    ("http://?a", "no host"),
    ("http://:80/", "no host"),
    ("http://hunter2@example.com/", "user name"),
    ("http://user:hunter2@example.com/", "user name"),
    ("http://user:hunter2@@example.com/", "user name"),
    ("http://@example.com/", "user name"),
    ("http://user:hunter2/x@example.com/", "port"),
    ("http://example.com:0/", "port"),
    ("http://example.com:65536/", "port"),
    ("http://example.com:99999999999/", "port"),
    ("http://example.com:+80/", "port"),
    ("http://example.com:٨٠/", "port"),
    ("http://example.com:a/", "port"),
    ("http://2001:db8::1/", "port"),
    ("http://[::1]:a/", "port"),
    ("http://[::1/", "brackets"),
    ("http://[::1]x/", "brackets"),
    ("http://[]/", "brackets"),
    ("http://[v1.x]/", "brackets"),
    ("http://[127.0.0.1]/", "brackets"),
    ("http://[::1%]/", "zone"),
    ("http://[::1%25a%2Fb]/", "zone"),
    ("http://exa mple.com/", "valid name"),
    ("http://a..b/", "valid name"),
    ("http://./", "valid name"),
    ("http://a%2Fb/", "valid name"),
    ("http://a%00b/", "valid name"),
    ("http://a%zzb/", "valid name"),
    ("http://a\\b/", "valid name"),
    ("http://a,b/", "valid name"),
    ("http://::1]/", "no host"),
    ("http://a:[::1]/", "port"),
    ("http://" + "a" * 64 + "/", "valid name"),
    ("http://" + "a." * 200 + "/", "valid name"),
    ("http://a%E4b/", "international"),
    ("http://\u2100.example/", "valid name"),
    ("http://ä..b/", "international"),
    ("http://" + "ä" * 70 + "/", "international"),
    ("http://\u0627a/", "international"),
    ("http://" + "ä." * 200 + "/", "253"),
    ("http://example.com/a\nb", "control"),
    ("http://example.com/a\tb", "control"),
    ("http://exam\r\nple.com/", "control"),
    ("ht\ntp://example.com/", "control"),
    ("http://example.com/\x00", "control"),
    ("http://example.com/\x7f", "control"),
    ("http://example.com/\x85x", "control"),
    ("http://example.com/\ud800", "control"),
    ("http://example.com/" + "a" * MAX_URL_BYTES, "longer than 8192"),
    ("http://example.com/" + "ä" * (MAX_URL_BYTES // 2), "longer than 8192"),
    ("http://example.com/" + "ä" * (MAX_URL_BYTES // 4), "percent-encoded"),
]

URL_PIECES = st.text(
    st.sampled_from("htps:/?#[]@%25.\\ \n\x00aä例\u00df\u3002\u2100\u0627\ud800:80x=&;token1") | st.characters(),
    max_size=40,
)
NASTY_URLS = (
    st.text()
    | st.builds("http://{}".format, URL_PIECES)
    | st.builds("http://[{}]{}".format, URL_PIECES, URL_PIECES)
    | st.builds("https://h/{}?{}".format, URL_PIECES, URL_PIECES)
)


@pytest.mark.parametrize(("url", "expected"), NORMALISED)
def test_a_url_gets_the_spelling_that_is_fetched(url: str, expected: str) -> None:
    """One spelling for what is certainly the same; what an origin may tell apart stays apart."""
    assert normalise_url(url) == expected
    assert normalise_url(expected) == expected


@pytest.mark.parametrize(("url", "reason"), REFUSED)
def test_a_url_that_is_not_fetched_is_refused_with_its_reason(url: str, reason: str) -> None:
    """DESIGN.md section 7: the error says why, in one short line, and holds no secret."""
    with pytest.raises(InvalidUrl) as caught:
        normalise_url(url)
    assert reason in caught.value.reason
    assert "hunter2" not in repr(caught.value) + str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
    assert caught.value.__cause__ is None


def test_the_longest_url_passes() -> None:
    """The limit counts bytes and includes its own value."""
    url = "http://example.com/"
    longest = url + "a" * (MAX_URL_BYTES - len(url))
    assert normalise_url(longest) == longest
    with pytest.raises(InvalidUrl):
        normalise_url(longest + "a")


@given(NASTY_URLS)
@example("http://[::1%25")
@example("http://\u2488com/")
def test_normalising_gives_a_sendable_url_or_invalid_url(url: str) -> None:
    """Nothing else is raised; what comes out is visible ASCII, its own normal form, and has an origin."""
    try:
        normal = normalise_url(url)
    except InvalidUrl as error:
        assert str(error).isprintable()
        return
    assert normal.isascii()
    assert normal.isprintable()
    assert " " not in normal
    assert len(normal) <= MAX_URL_BYTES
    assert "#" not in normal
    assert normalise_url(normal) == normal
    assert origin_of(normal) == origin_of(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Example.com/a", "https://example.com:443"),
        ("http://example.com", "http://example.com:80"),
        ("http://example.com:8080/?a", "http://example.com:8080"),
        ("http://[::1]/", "http://[::1]:80"),
    ],
)
def test_an_origin_always_has_its_port(url: str, expected: str) -> None:
    """RFC 9110 section 4.3.1: scheme, host and port are the origin."""
    assert origin_of(url) == expected


def test_the_origin_of_no_url_is_an_error() -> None:
    """There is no origin to give, and a wrong key would share credentials."""
    with pytest.raises(InvalidUrl):
        origin_of("example.com")


# --- query parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "params", "expected"),
    [
        ("http://h/", None, "http://h/"),
        ("http://h/", {}, "http://h/"),
        ("http://h/", {"a": []}, "http://h/"),
        ("http://h/", {"a": "1"}, "http://h/?a=1"),
        ("http://h/?", {"a": "1"}, "http://h/?a=1"),
        ("http://h/?x=y", {"a": "1", "b": "2"}, "http://h/?x=y&a=1&b=2"),
        ("http://h/?x=y&", {"a": "1"}, "http://h/?x=y&a=1"),
        ("http://h/#f?g", {"a": "1"}, "http://h/?a=1#f?g"),
        ("http://h/", {"a": ["1", "2"], "b": ()}, "http://h/?a=1&a=2"),
        ("http://h/", {"a b": "c d&e=f+ä#/"}, "http://h/?a%20b=c%20d%26e%3Df%2B%C3%A4%23%2F"),
    ],
)
def test_parameters_are_appended_encoded(
    url: str, params: Mapping[str, str | Sequence[str]] | None, expected: str
) -> None:
    """What the URL has already stays as it is."""
    assert with_query(url, params) == expected


def test_a_parameter_that_is_no_text_is_refused_unseen() -> None:
    """A lone surrogate has no UTF-8; the error does not show the value."""
    with pytest.raises(InvalidValue) as caught:
        with_query("http://h/", {"token": "hunter2\ud800"})
    assert "hunter2" not in str(caught.value)


# --- redirects ----------------------------------------------------------------------------------------

# RFC 3986 section 5.4.1 (normal) and 5.4.2 (abnormal), with http://a/b/c/d;p?q as the base; no fragments.
REFERENCES = [
    ("g:h", None),
    ("g", "http://a/b/c/g"),
    ("./g", "http://a/b/c/g"),
    ("g/", "http://a/b/c/g/"),
    ("/g", "http://a/g"),
    ("//g", "http://g/"),
    ("?y", "http://a/b/c/d;p?y"),
    ("g?y", "http://a/b/c/g?y"),
    ("#s", "http://a/b/c/d;p?q"),
    ("g#s", "http://a/b/c/g"),
    ("g?y#s", "http://a/b/c/g?y"),
    (";x", "http://a/b/c/;x"),
    ("g;x", "http://a/b/c/g;x"),
    ("g;x?y#s", "http://a/b/c/g;x?y"),
    ("", "http://a/b/c/d;p?q"),
    (".", "http://a/b/c/"),
    ("./", "http://a/b/c/"),
    ("..", "http://a/b/"),
    ("../", "http://a/b/"),
    ("../g", "http://a/b/g"),
    ("../..", "http://a/"),
    ("../../", "http://a/"),
    ("../../g", "http://a/g"),
    ("../../../g", "http://a/g"),
    ("../../../../g", "http://a/g"),
    ("/./g", "http://a/g"),
    ("/../g", "http://a/g"),
    ("g.", "http://a/b/c/g."),
    (".g", "http://a/b/c/.g"),
    ("g..", "http://a/b/c/g.."),
    ("..g", "http://a/b/c/..g"),
    ("./../g", "http://a/b/g"),
    ("./g/.", "http://a/b/c/g/"),
    ("g/./h", "http://a/b/c/g/h"),
    ("g/../h", "http://a/b/c/h"),
    ("g;x=1/./y", "http://a/b/c/g;x=1/y"),
    ("g;x=1/../y", "http://a/b/c/y"),
    ("g?y/./x", "http://a/b/c/g?y/./x"),
    ("g?y/../x", "http://a/b/c/g?y/../x"),
    ("http:g", "http://a/b/c/g"),
]

REDIRECTS = [
    ("https://Other.example/x#y", "https://other.example/x"),
    ("HTTP://other.example/a/../b", "http://other.example/a/../b"),
    ("https:x", None),
    ("/a//b//../c", "http://a/a//b/c"),
    (" /a b?c d ", "http://a/a%20b?c%20d"),
    ("a b:c", "http://a/b/c/a%20b:c"),
    ("/\xc3\xa4?\xc3\xa4", "http://a/%C3%A4?%C3%A4"),
    ("/\xe4", "http://a/%E4"),
    ("/ä€", "http://a/%C3%A4%E2%82%AC"),
    ("//b\xc3\xbccher.example/", "http://xn--bcher-kva.example/"),
    ("//b\xfccher.example/", None),
    ("//user:hunter2@evil.example/", None),
    ("https://user:hunter2@evil.example/", None),
    ("/\\evil.example/", "http://a/%5Cevil.example/"),
    ("///x", None),
    ("http:///x", None),
    ("file:///etc/passwd", None),
    ("/a\r\nSet-Cookie: x", None),
    ("/\udce4", None),
    ("//[::1", None),
    ("/" + "a" * MAX_URL_BYTES, None),
]


@pytest.mark.parametrize(("location", "expected"), REFERENCES + REDIRECTS)
def test_a_location_is_resolved_against_its_base(location: str, expected: str | None) -> None:
    """RFC 9110 section 10.2.2, RFC 3986 section 5.2; `None`: nothing that may be fetched."""
    base = "http://a/b/c/d;p?q"
    if expected is not None:
        assert resolve_redirect(base, location) == expected
        return
    with pytest.raises(InvalidUrl) as caught:
        resolve_redirect(base, location)
    assert "hunter2" not in repr(caught.value) + str(caught.value)


def test_a_location_keeps_scheme_and_port_of_its_base() -> None:
    """A relative reference stays at the origin; one with an authority keeps the scheme only."""
    assert resolve_redirect("https://a:8443/", "/x") == "https://a:8443/x"
    assert resolve_redirect("https://a:8443/", "//b/x") == "https://b/x"
    assert resolve_redirect("https://a:8443", "x?y") == "https://a:8443/x?y"


@given(NASTY_URLS | URL_PIECES)
def test_a_redirect_leads_to_a_normal_url_or_invalid_url(location: str) -> None:
    """Nothing else is raised, whatever an origin sends."""
    try:
        target = resolve_redirect("https://h:1/a/b?c", location)
    except InvalidUrl:
        return
    assert normalise_url(target) == target


# --- for people ---------------------------------------------------------------------------------------

SHOWN = [
    ("https://example.com/a?b=c&d#e", "https://example.com/a?b=c&d#e"),
    ("https://medium.example/@user/post?at=@x", "https://medium.example/@user/post?at=@x"),
    ("https://[::1]:80/@x", "https://[::1]:80/@x"),
    ("https://[::1]/@x", "https://[::1]/@x"),
    ("https://h:/@x", "https://h:/@x"),
    # user name and password, also where the URL is broken
    ("https://user:hunter2@h/", "https://h/"),
    ("https://hunter2@h/", "https://h/"),
    ("https://user:hunter2@hunter2@h/", "https://h/"),
    ("https://user:hunter2/hunter2@h/x", "https://h/x"),
    ("https://user:hunter2?hunter2@h/x", "https://h/x"),
    ("https://user:hunter2#hunter2@h/x?token=hunter2", "https://h/x?token=***"),
    ("https://user:x@/hunter2@h/x", "https://h/x"),
    ("https://user:x@h:80/x@y", "https://h:80/x@y"),
    ("user:hunter2@h/x", "h/x"),
    ("//user:hunter2@h/x", "//h/x"),
    ("http:/user:hunter2@h/x", "http:/h/x"),
    ("http:user:hunter2@h/x", "h/x"),
    ("http:///user:hunter2@h/x", "http:///h/x"),
    ("http:\\\\user:hunter2@h/x", "http:\\\\h/x"),
    ("  http://user:hunter2@h/x", "  http://h/x"),
    # parameters
    (
        "https://h/?X-Amz-Credential=hunter2&X-Amz-Date=1&X-Amz-Signature=hunter2&X-Amz-Security-Token=hunter2",
        "https://h/?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***&X-Amz-Security-Token=***",
    ),
    ("https://h/?sv=1&sig=hunter2%3D&se=2", "https://h/?sv=1&sig=***&se=2"),
    ("https://h/?key=hunter2", "https://h/?key=***"),
    ("https://h/?access_token=hunter2&a", "https://h/?access_token=***&a"),
    ("https://h/?ACCESS%5FTOKEN=hunter2", "https://h/?ACCESS%5FTOKEN=***"),
    ("https://h/?user[password]=hunter2", "https://h/?user[password]=***"),
    ("https://h/?token=hunter2=hunter2", "https://h/?token=***"),
    ("https://h/?token=hunter2;hunter2", "https://h/?token=***"),
    ("https://h/?a=1;token=hunter2&b=2", "https://h/?a=1;token=***&b=2"),
    ("https://h/?a=1?token=hunter2", "https://h/?a=1?token=***"),
    ("https://h/?a=b&amp;token=hunter2", "https://h/?a=b&amp;token=***"),
    ("https://h/?token=", "https://h/?token=***"),
    ("https://h/#access_token=hunter2&x=1", "https://h/#access_token=***&x=1"),
    ("https://h/a;jsessionid=hunter2;v=1/b;v=2", "https://h/a;jsessionid=***;v=1/b;v=2"),
    # one printable line
    ("https://h/a\r\nb\x00\u202e", "https://h/a%0D%0Ab%00%E2%80%AE"),
    ("https://h/\ud800", "https://h/%ED%A0%80"),
    ("https://h/ä b", "https://h/ä b"),
    ("", ""),
    ("\n", "%0A"),
]


@pytest.mark.parametrize(("url", "expected"), SHOWN)
def test_a_shown_url_holds_no_secret(url: str, expected: str) -> None:
    """DESIGN.md section 2, number 9; and what is no secret stays readable."""
    assert show_url(url) == expected


@given(NASTY_URLS)
def test_any_text_is_shown_as_one_printable_line(url: str) -> None:
    """Never raises; the result can go into a log."""
    assert show_url(url).isprintable()


WORD = st.text("abcABC0123.!~", min_size=1)


@given(WORD, st.text("abc0129:/?#&=;%\\ ", max_size=20), WORD)
def test_a_password_never_shows(user: str, middle: str, host: str) -> None:
    """A password shows in no valid URL, and in no broken one whose user name and port give it away."""
    assert "hunter2" not in show_url(f"https://{user}:x{middle}hunter2@{host}/a")


@given(
    st.sampled_from(["token", "X-Amz-Signature", "api_key", "PASSWORD"]),
    URL_PIECES.filter(lambda s: not {*s} & {*"#&"}),
)
def test_a_secret_parameter_never_shows(name: str, around: str) -> None:
    """Whatever surrounds a secret within its value, none of it shows."""
    assert "hunter2" not in show_url(f"https://h/?a=b&{name}={around}hunter2{around}&c=d")


@pytest.mark.parametrize("name", ["page", "monkey", "keyword", "X-Amz-Date", "design", "expires", "author", "idx"])
def test_ordinary_parameters_are_shown(name: str) -> None:
    """Masking everything would make two URLs look the same."""
    assert not is_secret_parameter(name)


# --- what is uploaded ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("set.bin", "forebay:set.bin"),
        ("maps/größe 50%?#.tif", "forebay:maps/gr%C3%B6%C3%9Fe%2050%25%3F%23.tif"),
        ("//host/x", "forebay:%2F/host/x"),
        ("../x\x00", "forebay:../x%00"),
    ],
)
def test_a_name_has_one_url(name: str, url: str) -> None:
    """Percent-encoded, and the same however it is spelled."""
    assert upload_url(name) == url
    assert request_url(url) == url
    assert request_url(f" FOREBAY:{url.partition(':')[2]}") == url


def test_what_is_no_name_is_refused() -> None:
    """Nothing, too much, no text, no UTF-8; and what looks like a URL with a host."""
    for name in ("", "x" * 8192, "\ud800"):
        with pytest.raises(InvalidValue):
            upload_url(name)
    for url in ("forebay://call/x", "forebay:%FF", "file:///etc/passwd"):
        with pytest.raises(InvalidUrl):
            request_url(url)
    assert request_url("HTTP://Host") == normalise_url("HTTP://Host")
