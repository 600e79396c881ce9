"""Where a server listens, before it does."""

import socket

import pytest

from forebay.errors import InvalidValue, PortTaken
from forebay.server.run import base_url, is_loopback, reserved


@pytest.mark.parametrize(
    ("address", "tls", "url"),
    [
        ("127.0.0.1", False, "http://127.0.0.1:8008"),
        ("127.0.0.1", True, "https://127.0.0.1:8008"),
        ("0.0.0.0", False, "http://127.0.0.1:8008"),
        ("::", False, "http://[::1]:8008"),
        ("2001:db8::1", False, "http://[2001:db8::1]:8008"),
    ],
)
def test_the_url_that_works_here(address: str, tls: bool, url: str) -> None:
    """An address that stands for all is one of this machine; IPv6 is in brackets."""
    assert base_url(address, 8008, tls=tls) == url


def test_loopback_is_known_by_its_address() -> None:
    """Also behind a name; every address is more than loopback."""
    assert is_loopback("localhost")
    assert is_loopback("127.9.9.9")
    assert not is_loopback("0.0.0.0")
    with pytest.raises(InvalidValue):
        is_loopback("no such host")


def test_a_reserved_port_is_nobody_elses() -> None:
    """While it is reserved nobody can reserve it again; but who shares it by SO_REUSEPORT can listen on it."""
    with reserved("127.0.0.1", 0) as (address, port):
        assert port > 0
        with pytest.raises(PortTaken), reserved(address, port):
            pass
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind((address, port))
            worker.listen()
            socket.create_connection((address, port)).close()
    with reserved("127.0.0.1", port):
        pass


def test_an_address_of_another_machine_cannot_be_reserved() -> None:
    """It is told as what it is, with the address."""
    with pytest.raises(PortTaken, match=r"203\.0\.113\.1"), reserved("203.0.113.1", 0):
        pass
