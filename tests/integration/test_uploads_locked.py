"""What is said of an upload that another message makes whole for longer than whoever asks is patient."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from forebay import Forebay
from forebay.server import uploading

TUS = {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
IETF = {"Upload-Draft-Interop-Version": "8", "Upload-Offset": "0", "Upload-Complete": "?0"}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks again a few times, and then no more."""
    monkeypatch.setattr(uploading, "_LOCKED_S", 0.5)


def ask(bay: Forebay, method: str, path: str, **more: object) -> httpx.Response:
    """The answer of a server on *bay*."""

    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(bay.asgi(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
            return await http.request(method, path, **more)  # type: ignore[arg-type]

    return asyncio.run(exchange())


@pytest.mark.parametrize("method", ["HEAD", "PATCH", "GET", "DELETE"])
@pytest.mark.parametrize(("place", "fields"), [("tus", TUS), ("id", IETF)], ids=["tus", "ietf"])
def test_every_message_is_told_to_come_back(bay: Forebay, method: str, place: str, fields: dict[str, str]) -> None:
    """With the status that tus clients wait for; nothing of the upload changes."""
    uid = bay.uploads.create(owner=None, size=2).uid
    content = b"a" if method == "PATCH" else None
    kind = {"Content-Type": "application/partial-upload"} if place == "id" and method == "PATCH" else {}
    with bay.uploads._completion._having(uid):
        got = ask(bay, method, f"/v1/upload/{place}/{uid}", headers=fields | kind, content=content)
    assert (got.status_code, got.headers["retry-after"]) == (423, "1")
    assert method == "HEAD" or got.json()["code"] == "upload_locked"
    state = bay.uploads.state(uid, owner=None)
    assert (state.offset, state.is_complete) == (0, False)


def test_so_is_a_chunk_of_a_form(bay: Forebay) -> None:
    """Its content is read once, however often it is tried."""
    form = {"chunkCount": "2", "chunkNumber": "0", "fileName": "a", "totalSize": "2", "uploadUid": ""}
    file = {"content": ("a", b"x")}
    first = ask(bay, "POST", "/v1/upload/chunk", data=form, files=file)
    form["uploadUid"] = first.json()["uploadUid"]
    with bay.uploads._completion._having(form["uploadUid"]):
        got = ask(bay, "POST", "/v1/upload/chunk", data=form, files=file)
    assert (got.status_code, got.headers["retry-after"]) == (423, "1")
    assert got.json()["error"]["code"] == "upload_locked"
    assert ask(bay, "POST", "/v1/upload/chunk", data=form, files=file).status_code == 200
