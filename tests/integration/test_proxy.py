"""Proxies are used by a setting only; whatever is dialled directly is the gate's."""

from collections.abc import Callable

import pytest

from forebay import Forebay, OriginRefused
from forebay.fetch.transport import proxy_for
from origin import Exchange, Origin

MakeBay = Callable[..., Forebay]
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``environment(http_proxy=…)``: these variables and no others of their kind."""

    def become(**values: str) -> None:
        for name in NAMES:
            for spelled in (name, name.upper()):
                monkeypatch.delenv(spelled, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    become()
    return become


@pytest.fixture
def proxy(origin: Origin) -> Origin:
    """An origin that answers whatever it is asked for, as a proxy does."""

    def answer(exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", "7"), ("Content-Type", "text/plain")])
        exchange.send(b"proxied")

    origin.serve("*", answer)
    return origin


def body_of(bay: Forebay, url: str) -> bytes:
    with bay.open(url) as file:
        return file.read()


def test_a_named_proxy_is_used_for_every_host(
    make_bay: MakeBay, proxy: Origin, environment: Callable[..., None]
) -> None:
    """Also for those that the environment would go around it for: the addresses are the proxy's to judge."""
    environment(no_proxy="127.0.0.1,localhost")
    with Origin() as inside:
        bay = make_bay(allow_private=False, proxy=proxy.url("").rstrip("/"))
        assert body_of(bay, inside.url("/secret")) == b"proxied"
        assert inside.log == []
    assert len(proxy.log) == 1


def test_what_the_environment_dials_directly_is_the_gate_s(
    make_bay: MakeBay, proxy: Origin, environment: Callable[..., None]
) -> None:
    """With ``environment``, a host that goes around the proxy is refused like any other."""
    environment(http_proxy=proxy.url("").rstrip("/"), no_proxy="127.0.0.1")
    with Origin() as inside:
        bay = make_bay(allow_private=False, proxy="environment")
        with pytest.raises(OriginRefused):
            bay.fetch(inside.url("/secret"))
        assert body_of(bay, "http://public.example/file") == b"proxied"
        assert inside.log == []


def test_without_the_setting_no_proxy_is_used(
    make_bay: MakeBay, proxy: Origin, environment: Callable[..., None]
) -> None:
    """HTTP_PROXY alone changes nothing."""
    environment(http_proxy="http://127.0.0.1:1", all_proxy="http://127.0.0.1:1")
    assert body_of(make_bay(), proxy.url("/file")) == b"proxied"


@pytest.mark.parametrize(
    ("variables", "url", "expected"),
    [
        ({}, "http://a.example/", ""),
        ({"http_proxy": "http://p:1"}, "http://a.example/", "http://p:1"),
        ({"http_proxy": "http://p:1"}, "https://a.example/", ""),
        ({"https_proxy": "http://s:1"}, "https://a.example/", "http://s:1"),
        ({"all_proxy": "socks5://p:1"}, "https://a.example/", "socks5://p:1"),
        ({"all_proxy": "http://p:1", "no_proxy": ".example"}, "https://a.example/", ""),
        ({"all_proxy": "http://p:1", "no_proxy": "*"}, "https://a.example/", ""),
    ],
)
def test_the_environment_is_read_as_everybody_reads_it(
    environment: Callable[..., None], variables: dict[str, str], url: str, expected: str
) -> None:
    """By scheme, then ``all_proxy``; ``no_proxy`` names who goes around."""
    environment(**variables)
    assert proxy_for(url, "environment") == expected
    assert proxy_for(url, "") == ""
    assert proxy_for(url, "http://named:1") == "http://named:1"
