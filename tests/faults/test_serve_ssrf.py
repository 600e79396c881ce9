"""Whoever reaches the server does not reach through it what only the server reaches (SSRF): with its defaults,
nothing of this machine or its networks is dialled, however it is written, named or led to.
"""

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from origin import Origin, Redirect, Resource
from raw import Api, problem

pytestmark = pytest.mark.faults

DEFAULTS = {"FOREBAY_ALLOW_PRIVATE": "", "FOREBAY_MAX_ATTEMPTS": "1"}


@pytest.fixture
def api(serve: Callable[..., Any]) -> Api:
    """A server with its defaults."""
    return Api(serve(env=DEFAULTS))


@pytest.fixture
def victim() -> Iterator[Origin]:
    """A server on loopback, of both families where there are two, that must never hear of it."""
    with Origin() as origin:
        origin.serve("*", Resource(b"s3cret"))
        yield origin
        assert origin.connections == 0


# The same address, for who looks at the text only.
LOOPBACK = [
    "127.0.0.1",
    "127.0.0.2",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "127。0。0。1",
    "①②⑦.0.0.1",
    "127%2e0%2e0%2e1",
    "0",
    "0.0.0.0",
    "0x0",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "a.localhost",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "[::1%25lo]",
    "user@127.0.0.1",
    "example.org@127.0.0.1",
    "127.0.0.1#@example.org",
    "127.0.0.1%23@example.org",
    "example.org\\@127.0.0.1",
]

ELSEWHERE = [
    "169.254.169.254",  # where clouds tell a machine its secrets
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::a9fe:a9fe]",
    "0xa9fea9fe",
    "2852039166",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fe80::a9fe:a9fe]",
    "[fc00::1]",
    "[ff02::1]",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "[2001:db8::1]",
]


def own_names() -> list[str]:
    """Names of this machine that lead to itself or to its network."""
    with contextlib.suppress(OSError):
        return [socket.gethostname()] if not socket.gethostbyname(socket.gethostname()).startswith("8.") else []
    return []


def refused(answer: Any) -> str:
    """The code of a refusal: of the gate, or of a URL that is none."""
    status, code = problem(answer)
    assert (status, code) in ((403, "origin_refused"), (422, "url_invalid")), answer
    assert b"s3cret" not in answer.body
    return code


def test_no_way_to_write_an_address_leads_inside(api: Api, victim: Origin) -> None:
    """At the door, and for a Request: 403 of the gate, which names what would allow it, or 422 for what is no URL."""
    codes = {}
    for host in [*LOOPBACK, *own_names()]:
        target = f"http://{host}:{victim.port}/latest/meta-data/"
        codes[host] = refused(api.get(f"/r/{target}".encode()))
    for host in ELSEWHERE:
        codes[host] = refused(api.get(f"/r/http://{host}/latest/meta-data/"))
    for host in ("127.0.0.1", "localhost", "0", "[::1]", "169.254.169.254", "[::ffff:169.254.169.254]", "10.0.0.1"):
        assert codes[host] == "origin_refused", host
    made = api.json("PUT", "/v1/request/", {"url": f"http://localhost:{victim.port}/"})
    asked = api.send("POST", f"/v1/request/{made['id']}/fetch", {"wait_sec": 30})
    assert problem(asked) == (403, "origin_refused")
    assert "allow" in json.loads(asked.body)["detail"]
    asked = api.send("POST", "/v1/fetch", {"request": {"url": f"http://[::1]:{victim.port}/"}, "wait_sec": 30})
    assert problem(asked) == (403, "origin_refused")


SCHEMES = ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1:1/_x", "dict://127.0.0.1:11211/stats"]
SCHEMES += [
    "sftp://127.0.0.1/",
    "smb://127.0.0.1/a",
    "ldap://127.0.0.1/",
    "unix:///var/run/docker.sock",
    "scp://a/b",
]


@pytest.mark.parametrize("status", [301, 303, 308])
def test_no_redirect_leads_inside(serve: Callable[..., Any], victim: Origin, status: int) -> None:
    """From an origin that is allowed, one that is not is refused: at each redirect, for each spelling, and on a
    connection that is kept. Other schemes are not followed."""
    with Origin("127.0.0.2") as outside:
        api = Api(serve("--allow-network", "127.0.0.2/32", env=DEFAULTS))
        outside.serve("/fine", Resource(b"fine"))
        assert api.get(f"/r/{outside.url('/fine')}").body == b"fine"
        hosts = ["127.0.0.1", "localhost", "0", "2130706433", "[::1]", "[::ffff:127.0.0.1]"]
        leads = [f"http://{host}:{victim.port}/" for host in hosts]
        leads += ["http://169.254.169.254/latest/meta-data/", f"//127.0.0.1:{victim.port}/", "http://10.0.0.1/"]
        for number, lead in enumerate([*leads, *SCHEMES]):
            outside.serve(f"/{number}", Redirect(lead, status))
            outside.serve(f"/twice/{number}", Redirect(f"/{number}", status))
            for path in (f"/{number}", f"/twice/{number}"):
                answer = api.get(f"/r/{outside.url(path)}")
                got, code = problem(answer)
                assert got in ((403,) if lead in leads else (403, 422, 502)), (lead, answer)
                assert code == "origin_refused" or lead not in leads, (lead, answer)
                assert b"root:" not in answer.body
        assert api.get(f"/r/{outside.url('/fine')}").body == b"fine"


def test_what_is_sent_along_does_not_lead_inside(api: Api, victim: Origin) -> None:
    """Fields that others would be led by are refused, or sent to the origin that is meant and nowhere else."""
    here = f"127.0.0.1:{victim.port}"
    for name in ("Host", "Proxy-Authorization", "Upgrade", "Connection"):
        answer = api.send("PUT", "/v1/request/", {"url": "http://203.0.113.1/", "http_header_fields": {name: here}})
        assert problem(answer) == (422, "value_invalid")
    fields = [
        ("X-Forwarded-Host", here),
        ("X-Forwarded-For", "127.0.0.1"),
        ("Forwarded", f"host={here};for={here}"),
    ]
    fields += [("X-Original-URL", f"http://{here}/"), ("X-Real-IP", "127.0.0.1"), ("Proxy", f"http://{here}")]
    assert problem(api.get(f"/r/http://{here}/", *fields)) == (403, "origin_refused")
