"""Messages over a real server: what a client receives is what was written, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import raw
from answers import HOWS, served, target
from forebay import OutgoingMessage
from forebay.errors import InvalidHeader


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The application, without TLS."""
    with served(tmp_path_factory.mktemp("plain")) as url:
        yield url


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The application with TLS, and the certificate to trust."""
    folder = tmp_path_factory.mktemp("secure")
    cert, key = folder / "cert.pem", folder / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*argv, *more], check=True, capture_output=True)
    with served(folder, certificate=(cert, key)) as url:
        yield url, cert


@pytest.fixture(scope="module", params=["HTTP/1.1", "HTTP/2"])
def client(request: pytest.FixtureRequest, secure: tuple[str, Path]) -> Iterator[httpx.Client]:
    """httpx, which speaks that version and no other."""
    url, cert = secure
    context = ssl.create_default_context(cafile=str(cert))
    two = request.param == "HTTP/2"
    with httpx.Client(base_url=url, verify=context, http1=not two, http2=two, trust_env=False) as made:
        yield made


RECIPES = st.fixed_dictionaries(
    {"how": st.sampled_from(HOWS), "parts": st.lists(st.binary(max_size=40).map(bytes.hex), max_size=6)}
)
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@EXAMPLES
@given(RECIPES, st.sampled_from(["GET", "POST", "HEAD"]))
def test_what_is_received_is_what_was_written(client: httpx.Client, recipe: dict[str, Any], method: str) -> None:
    """By httpx, however the body is made, in pieces of any size; of a HEAD the length where there is one, and no body."""
    written = b"".join(map(bytes.fromhex, recipe["parts"]))
    answer = client.request(method, target(recipe))
    assert answer.status_code == 200
    assert answer.http_version in ("HTTP/1.1", "HTTP/2")
    assert answer.content == (b"" if method == "HEAD" else written)
    if "content-length" in answer.headers:
        assert int(answer.headers["content-length"]) == len(written)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
def test_curl_receives_what_was_written(
    how: str, version: str, plain: str, secure: tuple[str, Path], tmp_path: Path
) -> None:
    """Three megabytes in pieces, more than is kept in memory; also HTTP/1.0, which knows no end without a length."""
    url, cert = (plain, secure[1]) if version == "--http1.0" else secure
    parts = [bytes([number]) * 500_000 for number in range(6)]
    recipe, out = tmp_path / "recipe", tmp_path / "out"
    recipe.write_text(json.dumps({"how": how, "parts": [part.hex() for part in parts]}))
    argv = ["curl", "-sS", version, "--cacert", str(cert), "--data-binary", f"@{recipe}", "-o", str(out)]
    done = subprocess.run([*argv, "-w", "%{http_code} %{http_version}", url], capture_output=True, text=True)
    shown = {"--http1.0": "1", "--http1.1": "1.1", "--http2": "2"}[version]
    assert (done.stdout, done.stderr) == (f"200 {shown}", "")
    assert out.read_bytes() == b"".join(parts)


def test_an_answer_that_breaks_is_no_whole(client: httpx.Client) -> None:
    """What fails after its head was sent ends the transfer visibly, whatever frames it."""
    recipe = {"how": "iterator", "parts": [b"half".hex()] * 3, "breaks": True}
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(target(recipe))


@pytest.mark.parametrize("how", ["iterator", "written", "written in a coroutine"])
@pytest.mark.parametrize("parts", [[b"abc"] * 2, [b"abc"] * 4])
def test_a_body_of_another_length_than_was_declared_is_no_whole(plain: str, how: str, parts: list[bytes]) -> None:
    """Neither a shorter nor a longer one looks like a success: an error, as long as nothing was sent, or a cut."""
    recipe = {"how": how, "parts": [part.hex() for part in parts], "fields": [["Content-Length", "9"]]}
    if how.startswith("written"):
        recipe["parts"] = [part.hex() for part in [*parts, b"", b""]]  # flushed: only then it is declared
    try:
        answer = raw.ask(plain, "GET", target(recipe))
    except raw.Cut:
        return
    assert answer.status == 500


def test_a_client_that_goes_away_ends_what_is_made_for_it(plain: str) -> None:
    """An endless iterator is closed when nobody reads it any more."""
    with raw.dial(plain, "GET", "/endless") as answer:
        assert answer.read(200_000) == bytes(200_000)
    assert raw.ask(plain, "GET", "/closed").body == b"True"


def test_a_body_is_echoed_while_it_comes(client: httpx.Client) -> None:
    """A stream of what comes in goes out."""
    body = bytes(range(256)) * 1000  # a client that does not read while it writes must fit into buffers
    assert client.post("/echo", content=body).content == body


def test_a_range_of_a_file_is_sent(client: httpx.Client) -> None:
    """A Path has validators of its own, and answers conditions and ranges."""
    at = target({"how": "path", "parts": [bytes(range(100)).hex()]})
    answer = client.get(at, headers={"Range": "bytes=10-19"})
    assert (answer.status_code, answer.content) == (206, bytes(range(10, 20)))
    assert answer.headers["content-range"] == "bytes 10-19/100"
    assert client.get(at, headers={"Range": "bytes=100-"}).status_code == 416
    modified = answer.headers["last-modified"]
    assert client.get(at, headers={"If-Unmodified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}).status_code == 412
    assert modified.endswith("GMT")


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("how", ["whole", "iterator", "written"])
def test_a_status_without_a_body_has_no_length(plain: str, how: str, status: int) -> None:
    """RFC 9110 section 8.6: no Content-Length in a 204; that of a 304 would be of what it stands for."""
    answer = raw.ask(plain, "GET", target({"how": how, "parts": [], "status": status}))
    assert (answer.status, answer.body) == (status, b"")
    assert "content-length" not in answer.fields
    assert "transfer-encoding" not in answer.fields


# --- header fields ------------------------------------------------------------------------------------------

TOKEN = st.text("!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz", min_size=1, max_size=20)
KNOWN = st.sampled_from(
    ["Connection", "Transfer-Encoding", "Keep-Alive", "Upgrade", "TE", "Trailer", "Content-Length", "Content-Type",
     "Content-Encoding", "Date", "Server", "Host", "Set-Cookie", "Location", "ETag", "Expect", "Proxy-Connection",
     "HTTP2-Settings", "Alt-Svc", "Age", "Vary", "Accept-Ranges", "Content-Range", "Cookie", "Via"]
)  # fmt: skip
NAMES = TOKEN | KNOWN | st.text(max_size=12)
LATIN = st.text(st.characters(max_codepoint=0xFF), max_size=30)
VALUES = LATIN | st.text(max_size=12) | st.sampled_from(["", " a", "a\t", "close", "chunked", "gzip", "5", "-1"])


@EXAMPLES
@given(NAMES, VALUES, st.sampled_from(["whole", "written"]))
def test_a_field_is_sent_exactly_or_refused(plain: str, name: str, value: str, how: str) -> None:
    """Whatever a program sets: it arrives as it is, or cannot be set; over HTTP/1.1, looked at byte by byte."""
    try:
        OutgoingMessage().set_header(name, value)
    except InvalidHeader:
        return
    answer = raw.ask(plain, "GET", target({"how": how, "parts": [], "fields": [[name, value]]}))
    if answer.status == 500:
        assert name.lower() == "content-length"  # which contradicts the body
        return
    assert value in answer.fields.all(name)


@EXAMPLES
@given(NAMES, VALUES)
def test_a_field_is_sent_exactly_or_refused_by_any_client(client: httpx.Client, name: str, value: str) -> None:
    """The same through a client, over both versions; but a coding that is none, which httpx would undo."""
    try:
        OutgoingMessage().set_header(name, value)
    except InvalidHeader:
        return
    client.cookies.clear()  # of an earlier example: it would send them
    answer = client.get(target({"how": "whole", "parts": [], "fields": [[name, value]]}))
    if answer.status_code == 500:
        assert name.lower() == "content-length"
        return
    wanted = (name.lower().encode("latin-1"), value.encode("latin-1"))
    assert wanted in [(key.lower(), field) for key, field in answer.headers.raw]
