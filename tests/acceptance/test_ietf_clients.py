"""tus-js-client in its modes for the IETF's drafts, as users have it, against a real `forebay serve`: what it goes
through with tus (test_tus_clients.py), but for parallel uploads, which the drafts do not have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_tus_clients import BODY, NAME, RETRIES, KilledAndStarted, arrived, url_of

from raw import Api
from wire import Wire

Node = Callable[..., Any]
Serve = Callable[..., Any]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is uploaded."""
    path = tmp_path_factory.mktemp("sent") / "file.bin"
    path.write_bytes(BODY)
    return path


@pytest.fixture(
    params=[
        (module, draft)
        for module in ("tus-js-client", "tus-js-client-5")
        for draft in ("ietf-draft-03", "ietf-draft-05")
    ],
    ids="-".join,
)
def upload(request: pytest.FixtureRequest, node: Node, file: Path) -> Callable[..., Any]:
    """``upload(url, *, options, **ask)``: a client that uploads to a server by a draft."""
    module, draft = request.param

    def start(url: str, *, options: dict[str, Any] | None = None, **ask: Any) -> Any:
        usual = {
            "endpoint": f"{url}/v1/upload/", "retryDelays": RETRIES, "metadata": {"filename": NAME}, "protocol": draft,
        }  # fmt: skip
        return node("tus_js.cjs", module=module, options=usual | (options or {}), **{"file": file, **ask})

    return start


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({}, "file"),
        ({"chunkSize": 1_000_001}, "file"),
        ({"uploadLengthDeferred": True, "chunkSize": 1_000_001}, "stream"),
        ({"uploadDataDuringCreation": True, "chunkSize": 1_000_001, "overridePatchMethod": True}, "file"),
        ({"uploadDataDuringCreation": True}, "file"),
    ],
    ids=["single", "parts", "deferred", "with-creation", "all-with-creation"],
)
def test_tus_js_client_uploads(
    upload: Callable[..., Any], shared_server: Any, options: dict[str, Any], source: str
) -> None:
    """In one piece; in parts; without knowing the length; with its first bytes in the creation, and PATCH said in a
    field; with all of them."""
    url = url_of(upload(shared_server.url, options=options, source=source).result())
    arrived(shared_server, url)
    assert "%E6%95%B0" in Api(shared_server).get(url[url.index("/v1/") :]).fields["content-disposition"]


def test_tus_js_client_uploads_nothing(upload: Callable[..., Any], shared_server: Any, tmp_path: Path) -> None:
    """Of an empty file it sends the creation alone, which says that more is to come; it is complete all the same."""
    (tmp_path / "empty").touch()
    url = url_of(upload(shared_server.url, file=tmp_path / "empty").result())
    got = Api(shared_server).get(url[url.index("/v1/") :])
    assert (got.status, got.body) == (200, b"")


def test_tus_js_client_goes_on_after_a_cut(upload: Callable[..., Any], shared_server: Any) -> None:
    """The connection breaks in the middle of a PATCH; the client asks where to go on, and does."""
    with Wire(shared_server.url) as wire:
        wire.cut_after_sent(1_500_000)
        said = upload(wire.url).result()
        arrived(shared_server, url_of(said))
        assert wire.cuts == 1
        assert {"event": "retry"} in said


def test_tus_js_client_survives_a_killed_server(upload: Callable[..., Any], serve: Serve) -> None:
    """kill -9 in the middle of a PATCH; a new server on the same folder goes on with it."""
    killed = KilledAndStarted(serve)
    with killed.wire as wire:
        killed.arm(1_500_000)
        child = upload(wire.url)
        killed.again()
        arrived(killed.served, url_of(child.result()))


def test_tus_js_client_goes_on_in_another_process(
    upload: Callable[..., Any], shared_server: Any, tmp_path: Path
) -> None:
    """Given up after the first part, and found again by the URL that was kept."""
    urls, parts = tmp_path / "urls.json", {"chunkSize": 1_000_000}
    first = upload(shared_server.url, options=parts, stop="abort", urls=urls).result()
    assert first[-1]["event"] == "stopped"
    again = upload(shared_server.url, options=parts, urls=urls).result()
    assert again[0] == {"event": "previous", "count": 1}
    assert url_of(again) == first[-1]["url"]
    assert [line["accepted"] for line in again if line["event"] == "chunk"] == [2_000_000, 3_000_000]
    arrived(shared_server, url_of(again))


def test_tus_js_client_terminates(upload: Callable[..., Any], shared_server: Any) -> None:
    """What it gave up is gone."""
    said = upload(shared_server.url, options={"chunkSize": 1_000_000}, stop="terminate").result()
    url = said[-1]["url"]
    assert Api(shared_server).ask("HEAD", url[url.index("/v1/") :]).status == 404
