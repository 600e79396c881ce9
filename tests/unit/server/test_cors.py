"""Which CORS fields go out to whom."""

import asyncio
from typing import Any

import pytest

from forebay.errors import InvalidValue
from forebay.server.access import Origins
from forebay.server.cors import Cors

APP = b"https://app.example.org"


def fields(allowed: list[str], *said: tuple[bytes, bytes], method: str = "POST") -> dict[str, str]:
    """The fields that are added to an answer."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"method": method, "headers": list(said)}
    sending = Cors(Origins.of(allowed)).sending(scope, send)
    asyncio.run(sending({"type": "http.response.start", "status": 200, "headers": []}))  # type: ignore[arg-type]
    return {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def test_without_the_setting_there_are_none() -> None:
    """Whoever asks."""
    assert fields([], (b"origin", APP)) == {}


@pytest.mark.parametrize("origin", [None, b"https://other.example.org", b"http://app.example.org", b"null", b""])
def test_others_get_none(origin: bytes | None) -> None:
    """Nobody whose origin is not named: another host, scheme or none; caches are told that it matters."""
    said = [] if origin is None else [(b"origin", origin)]
    assert fields(["https://app.example.org"], *said) == {"vary": "Origin"}


def test_two_origins_are_none() -> None:
    """A message with two of them is nobody's."""
    assert "access-control-allow-origin" not in fields(["*"], (b"origin", APP), (b"origin", APP))


@pytest.mark.parametrize(
    ("allowed", "origin"),
    [
        ("https://app.example.org", b"https://app.example.org"),
        ("https://App.Example.org:443", b"https://app.example.org"),
        ("http://127.0.0.1:3000", b"http://127.0.0.1:3000"),
        ("*", b"https://whoever.example.org"),
    ],
)
def test_allowed_ones_may_read(allowed: str, origin: bytes) -> None:
    """Their origin is said back, never a star, and what they may read."""
    got = fields([allowed], (b"origin", origin))
    assert got["access-control-allow-origin"] == origin.decode()
    assert "Upload-Offset" in got["access-control-expose-headers"]
    assert "access-control-allow-methods" not in got


def test_a_preflight() -> None:
    """Methods, and the fields that the page wants to send, unless they are no names."""
    asked = ((b"origin", APP), (b"access-control-request-method", b"PATCH"))
    names = (b"access-control-request-headers", b"tus-resumable,x-mine")
    got = fields(["*"], *asked, names, method="OPTIONS")
    assert "PATCH" in got["access-control-allow-methods"]
    assert got["access-control-allow-headers"] == "tus-resumable,x-mine"
    assert "access-control-expose-headers" not in got
    strange = (b"access-control-request-headers", b"a\r\nb: c")
    assert "access-control-allow-headers" not in fields(["*"], *asked, strange, method="OPTIONS")


@pytest.mark.parametrize(
    "name", ["app.example.org", "https://", "https://a/b", "ftp://a", "null", "https://a:99999"]
)
def test_what_is_no_origin_is_refused(name: str) -> None:
    """As browsers write it: a scheme, a host, perhaps a port."""
    with pytest.raises(InvalidValue) as caught:
        Origins.of([name])
    assert caught.value.field == "allow_origins"
