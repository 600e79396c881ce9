"""tus within somebody else's application: where its uploads are, is below the place where that has mounted us."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from asgi import Exchange
from forebay import Forebay

ROOT = "/basin/v1/upload/tus/"
RESUMABLE = ("Tus-Resumable", "1.0.0")
OCTETS = ("Content-Type", "application/offset+octet-stream")


class Mounted:
    """An application of ours that is mounted at ``/basin``, in one event loop."""

    def __init__(self, bay: Forebay) -> None:
        self._app = bay.asgi()
        self._loop = asyncio.Runner()

    def ask(self, method: str, target: str, *fields: tuple[str, str], body: bytes = b"") -> tuple[int, Any, bytes]:
        """Status, fields and body of the answer."""
        known = (("Host", "127.0.0.1"), ("Content-Length", str(len(body))), RESUMABLE)
        # In two events, so that a body has a middle.
        pieces = (body[: len(body) // 2], body[len(body) // 2 :])
        exchange = Exchange(method, target, *known, *fields, body=pieces, root_path="/basin", scheme="http")
        self._loop.run(self._app(exchange.scope, exchange.receive, exchange.send))
        start, *events = exchange.events
        fields_of = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return start["status"], fields_of, b"".join(event.get("body", b"") for event in events)

    def close(self) -> None:
        """End it."""
        self._loop.close()


@pytest.fixture
def mounted(bay: Forebay) -> Iterator[Mounted]:
    """One on a Forebay of its own."""
    found = Mounted(bay)
    yield found
    found.close()


def test_an_upload_is_below_the_mount(mounted: Mounted, bay: Forebay) -> None:
    """Its Location leads back to it, from the creation to the content, and to Python."""
    status, fields, _ = mounted.ask("POST", ROOT, ("Upload-Length", "8"), ("Upload-Metadata", "filename YS50eHQ="))
    assert status == 201
    place = fields["location"]
    assert place.startswith(ROOT)
    for offset, data in ((0, b"abcd"), (4, b"efgh")):
        status, fields, _ = mounted.ask("PATCH", place, OCTETS, ("Upload-Offset", str(offset)), body=data)
        assert (status, fields["upload-offset"]) == (204, str(offset + 4))
    status, fields, _ = mounted.ask("HEAD", place)
    assert (status, fields["upload-length"], fields["upload-metadata"]) == (200, "8", "filename YS50eHQ=")
    assert mounted.ask("GET", place)[2] == b"abcdefgh"
    upload = bay.uploads.get_upload(place.rpartition("/")[2])
    assert (upload.fileName, upload.path.read_bytes()) == ("a.txt", b"abcdefgh")
    assert mounted.ask("DELETE", place)[0] == 204
    assert mounted.ask("HEAD", place)[0] == 404


def test_parts_are_named_by_where_they_are(mounted: Mounted) -> None:
    """The Locations of partial uploads, as they were told, make a final one."""
    places = []
    for data in (b"ab", b"", b"cd"):
        length, concat = ("Upload-Length", str(len(data))), ("Upload-Concat", "partial")
        _, fields, _ = mounted.ask("POST", ROOT, length, concat, *([OCTETS] if data else []), body=data)
        places.append(fields["location"])
    status, fields, _ = mounted.ask("POST", ROOT, ("Upload-Concat", f"final;{' '.join(places)}"))
    assert status == 201
    assert mounted.ask("GET", fields["location"])[2] == b"abcd"
    assert mounted.ask("PATCH", fields["location"], OCTETS, ("Upload-Offset", "4"))[0] == 403


def test_what_is_refused_is_told(mounted: Mounted) -> None:
    """With the protocol's own statuses and fields."""
    _, fields, _ = mounted.ask("POST", ROOT, ("Upload-Length", "4"))
    place = fields["location"]
    status, fields, _ = mounted.ask("PATCH", place, OCTETS, ("Upload-Offset", "1"), body=b"x")
    assert (status, fields["upload-offset"]) == (409, "0")
    checksum = ("Upload-Checksum", "md5 1B2M2Y8AsgTpgAmY7PhCfg==")
    assert mounted.ask("PATCH", place, OCTETS, ("Upload-Offset", "0"), checksum, body=b"x")[0] == 460
    assert mounted.ask("PUT", place)[0] == 405
    assert mounted.ask("OPTIONS", ROOT)[1]["tus-version"] == "1.0.0"
