"""Public tus clients as users have them, against a real `forebay serve`: tus-js-client 4 and the 5 to come, in Node;
tuspy; and Uppy in Chromium. What is there in the end is what was sent.
"""

from __future__ import annotations

import base64
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from origin import blob
from raw import Api, digest_field
from wire import Wire

Node = Callable[..., Any]
Serve = Callable[..., Any]

SIZE = 3_000_000
BODY = blob(SIZE)
NAME = "Übersicht 数据.bin"
# Soon again, and until a server has been started anew.
RETRIES = [20] * 1000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is uploaded."""
    path = tmp_path_factory.mktemp("sent") / "file.bin"
    path.write_bytes(BODY)
    return path


def arrived(served: Any, url: str) -> None:
    """The upload at *url*, whatever the host, is what was sent, bit by bit."""
    got = Api(served).get(url[url.index("/v1/") :])
    assert got.status == 200, got
    assert got.fields["repr-digest"] == digest_field(BODY)
    assert got.body == BODY


def url_of(said: list[dict[str, Any]]) -> str:
    """Where the upload of a client that has ended well is."""
    assert said[-1]["event"] == "success", said
    return str(said[-1]["url"])


class KilledAndStarted:
    """A server that is killed in the middle of an upload, and started anew."""

    def __init__(self, serve: Serve, *options: str) -> None:
        self._serve, self._options = serve, options
        self.served = serve(*options)
        self.wire = Wire(self.served.url)
        self._cuts = 0

    def arm(self, after_bytes: int) -> None:
        """kill -9 it once so many bytes more have gone to it, and start it again."""
        self._cuts = self.wire.cuts + 1
        self.wire.cut_after_sent(after_bytes, then=self.served.kill, for_good=True)

    def again(self) -> None:
        """Wait for the kill, and start it."""
        self.wire.wait_for_cut(self._cuts)
        port = int(self.served.url.rpartition(":")[2])
        self.served = self._serve(*self._options, port=port)
        self.wire.refuse(False)


# --- tus-js-client ----------------------------------------------------------------------------------------


MODULES = ("tus-js-client", "tus-js-client-5")


@pytest.fixture
def js(node: Node, file: Path) -> Callable[..., Any]:
    """``js(url, *, module, options, **ask)``: a client that uploads to a server."""

    def start(url: str, *, options: dict[str, Any] | None = None, **ask: Any) -> Any:
        usual = {"endpoint": f"{url}/v1/upload/tus/", "retryDelays": RETRIES, "metadata": {"filename": NAME}}
        return node("tus_js.cjs", file=file, options=usual | (options or {}), **ask)

    return start


@pytest.fixture(params=MODULES)
def upload(request: pytest.FixtureRequest, js: Callable[..., Any]) -> Callable[..., Any]:
    """The same with each of both."""
    return partial(js, module=request.param)


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({}, "file"),
        ({"parallelUploads": 4}, "file"),
        ({"uploadLengthDeferred": True, "chunkSize": 1_000_001}, "stream"),
        ({"uploadDataDuringCreation": True, "chunkSize": 1_000_001, "overridePatchMethod": True}, "file"),
    ],
    ids=["single", "parallel", "deferred", "with-creation"],
)
def test_tus_js_client_uploads(
    upload: Callable[..., Any], shared_server: Any, options: dict[str, Any], source: str
) -> None:
    """In one piece; in four at once; without knowing the length; with its first bytes in the creation, and PATCH said
    in a field."""
    url = url_of(upload(shared_server.url, options=options, source=source).result())
    arrived(shared_server, url)
    fields = Api(shared_server).ask("HEAD", url[url.index("/v1/") :], ("Tus-Resumable", "1.0.0")).fields
    assert fields["upload-metadata"] == f"filename {base64.b64encode(NAME.encode()).decode()}"


@pytest.mark.parametrize("parallel", [1, 3])
def test_tus_js_client_goes_on_after_a_cut(upload: Callable[..., Any], shared_server: Any, parallel: int) -> None:
    """The connection breaks in the middle of a PATCH; the client asks where to go on, and does."""
    with Wire(shared_server.url) as wire:
        wire.cut_after_sent(1_500_000)
        said = upload(wire.url, options={"parallelUploads": parallel}).result()
        arrived(shared_server, url_of(said))
        assert wire.cuts == 1
        assert {"event": "retry"} in said


def test_tus_js_client_goes_on_in_another_process(
    upload: Callable[..., Any], shared_server: Any, tmp_path: Path
) -> None:
    """Given up after the first chunk, and found again by the URL that was kept."""
    urls, chunks = tmp_path / "urls.json", {"chunkSize": 1_000_000}
    first = upload(shared_server.url, options=chunks, stop="abort", urls=urls).result()
    assert first[-1]["event"] == "stopped"
    again = upload(shared_server.url, options=chunks, urls=urls).result()
    assert again[0] == {"event": "previous", "count": 1}
    assert url_of(again) == first[-1]["url"]
    assert [line["accepted"] for line in again if line["event"] == "chunk"] == [2_000_000, 3_000_000]
    arrived(shared_server, url_of(again))


def test_tus_js_client_terminates(upload: Callable[..., Any], shared_server: Any) -> None:
    """What it gave up is gone."""
    said = upload(shared_server.url, options={"chunkSize": 1_000_000}, stop="terminate").result()
    url = said[-1]["url"]
    assert Api(shared_server).ask("HEAD", url[url.index("/v1/") :], ("Tus-Resumable", "1.0.0")).status == 404


# --- tuspy ------------------------------------------------------------------------------------------------


_TUSPY = """
    from tusclient.client import TusClient
    from tusclient.storage.filestorage import FileStorage

    client = TusClient(ask["server"] + "/v1/upload/tus/")

    def uploader(**options):
        usual = dict(metadata={"filename": ask["name"]}, retries=500, retry_delay=0.02)
        return client.uploader(ask["file"], **{**usual, **options})
"""


WHOLE = "one = uploader(); one.upload(); say(url=one.url)"


@pytest.fixture
def tuspy(tuspy_python: str, spawn: Callable[..., Any], file: Path) -> Callable[..., Any]:
    """``tuspy(script, url, **ask)``: a `Child` that runs *script* where tuspy is."""

    def start(script: str, url: str, **ask: Any) -> Any:
        whole = textwrap.dedent(_TUSPY) + textwrap.dedent(script)
        return spawn(whole, python=tuspy_python, env={"NO_PROXY": "*"}, server=url, file=file, name=NAME, **ask)

    return start


def test_tuspy_uploads(tuspy: Callable[..., Any], shared_server: Any) -> None:
    """In one piece; in pieces with checksums; half of it, and the rest by another uploader with the kept URL; without
    blocking."""
    script = """
        import asyncio
        whole = uploader()
        whole.upload()
        say(url=whole.url)
        pieces = uploader(chunk_size=700_000, upload_checksum=True)
        pieces.upload()
        say(url=pieces.url)
        storage = FileStorage(ask["urls"])
        kept = dict(store_url=True, url_storage=storage, chunk_size=500_000)
        first = uploader(**kept)
        first.upload(stop_at=1_500_000)
        again = uploader(**kept)
        assert (again.url, again.offset) == (first.url, 1_500_000), (again.url, again.offset)
        again.upload()
        say(url=again.url)
        beside = client.async_uploader(ask["file"], chunk_size=1_000_000)
        asyncio.run(beside.upload())
        say(url=beside.url)
    """
    for line in tuspy(script, shared_server.url, urls=shared_server.folder.with_name("urls.json")).result():
        arrived(shared_server, line["url"])


def test_tuspy_goes_on_after_a_cut(tuspy: Callable[..., Any], shared_server: Any) -> None:
    """The connection breaks in the middle; it asks where to go on, and does."""
    with Wire(shared_server.url) as wire:
        wire.cut_after_sent(1_500_000)
        (said,) = tuspy(WHOLE, wire.url).result()
        assert wire.cuts == 1
    arrived(shared_server, said["url"])


# --- a bad day of the server ------------------------------------------------------------------------------


def test_a_server_is_killed(js: Callable[..., Any], tuspy: Callable[..., Any], serve: Serve) -> None:
    """kill -9 in the middle of what three clients upload; they go on with a new server on the same folder."""
    script = """
        one = uploader()
        one.set_url(one.create_url())  # the only thing that it does not do again
        say(created=one.url)
        sys.stdin.readline()
        one.upload()
        say(url=one.url)
    """
    killed = KilledAndStarted(serve)
    with killed.wire as wire:
        last = tuspy(script, wire.url)
        last.wait_for(lambda said: said)
        killed.arm(SIZE + SIZE // 2)
        children = [last, *(js(wire.url, module=module) for module in MODULES)]
        last.tell()
        killed.again()
        for child in children:
            arrived(killed.served, child.result()[-1]["url"])


# --- Uppy in Chromium -------------------------------------------------------------------------------------


def test_uppy(node: Node, serve: Serve, chromium: str, file: Path) -> None:
    """A page of another, allowed origin: single, parallel, deferred length, cut and gone on, removed, and gone on after
    the server was killed."""
    child = node("uppy.cjs", chromium=chromium)
    (first, *_) = child.wait_for(lambda said: said)
    killed = KilledAndStarted(serve, "--allow-origin", first["origin"])

    def said_of(name: str, event: str) -> list[dict[str, Any]]:
        return [line for line in child.said() if line.get("name") == name and line["event"] == event]

    def begin(name: str, **options: Any) -> None:
        remove = options.pop("remove", False)
        usual = {"endpoint": f"{killed.wire.url}/v1/upload/tus/", "retryDelays": RETRIES}
        child.tell(name=name, file=str(file), options=usual | options, remove=remove)

    def done(name: str) -> None:
        child.wait_for(lambda _: said_of(name, "done"))
        (line,) = said_of(name, "done")
        assert line["failed"] == [], line
        arrived(killed.served, line["url"])

    with killed.wire as wire:
        for name, options in (
            ("single", {}), ("parallel", {"parallelUploads": 3}),
            ("deferred", {"uploadLengthDeferred": True, "chunkSize": 1_000_000}),
        ):  # fmt: skip
            begin(name, **options)
            done(name)
        wire.cut_after_sent(1_500_000)
        begin("cut")
        done("cut")
        assert wire.cuts == 1
        begin("removed", remove=True, chunkSize=500_000)
        child.wait_for(lambda _: said_of("removed", "removed"))
        url = said_of("removed", "removed")[0]["url"]
        gone_within(killed.served, url)
        killed.arm(1_500_000)
        begin("killed")
        killed.again()
        done("killed")
    assert [line for line in child.said() if line["event"] == "pageerror"] == []


def gone_within(served: Any, url: str, timeout_s: float = 60) -> None:
    """Until the upload at *url* is terminated: nobody tells when a page has done that."""
    deadline = time.monotonic() + timeout_s
    while Api(served).ask("HEAD", url[url.index("/v1/") :], ("Tus-Resumable", "1.0.0")).status != 404:
        assert time.monotonic() < deadline
        time.sleep(0.02)
