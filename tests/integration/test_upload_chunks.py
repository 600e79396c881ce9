"""Chunk requests over HTTP: in each format, in any order, and what is refused."""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import random
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest

from forebay import Forebay
from forebay.errors import UploadIncomplete
from forebay.messages.incoming import IncomingMessage
from forebay.models import ChunkRequest
from origin import blob

CHUNK = "/v1/upload/chunk"
MIB = 1 << 20

Fields = dict[str, Any]
Send = Callable[[httpx.Client, Fields], httpx.Response]


@pytest.fixture
def client(shared_server: Any) -> Iterator[httpx.Client]:
    """A client of the module's server."""
    with httpx.Client(base_url=shared_server.url, timeout=60, trust_env=False) as opened:
        yield opened


# --- the formats -------------------------------------------------------------------------------------------


def _others(chunk: Fields) -> Fields:
    return {name: value for name, value in chunk.items() if name != "content"}


def as_json_text(client: httpx.Client, chunk: Fields) -> httpx.Response:
    return client.post(CHUNK, json=_others(chunk) | {"content": chunk["content"].decode()})


def as_json_integers(client: httpx.Client, chunk: Fields) -> httpx.Response:
    return client.post(CHUNK, json=_others(chunk) | {"content": list(chunk["content"])})


def as_json_base64(client: httpx.Client, chunk: Fields) -> httpx.Response:
    return client.post(CHUNK, json=_others(chunk) | {"contentBase64": base64.b64encode(chunk["content"]).decode()})


def as_msgpack(client: httpx.Client, chunk: Fields) -> httpx.Response:
    fields = {"Content-Type": "application/msgpack", "Accept": "application/json"}
    return client.post(CHUNK, content=msgpack.packb(chunk), headers=fields)


def as_form(client: httpx.Client, chunk: Fields) -> httpx.Response:
    texts = {name: str(value) for name, value in _others(chunk).items()}
    return client.post(CHUNK, data=texts, files={"content": ("blob", chunk["content"])})


def as_form_text(client: httpx.Client, chunk: Fields) -> httpx.Response:
    texts = {name: (None, str(value)) for name, value in _others(chunk).items()}
    return client.post(CHUNK, files=texts | {"content": (None, chunk["content"].decode())})


def as_query(client: httpx.Client, chunk: Fields) -> httpx.Response:
    return client.post(CHUNK, params=_others(chunk), content=chunk["content"])


def as_gzip(client: httpx.Client, chunk: Fields) -> httpx.Response:
    fields = {"Content-Encoding": "gzip"}
    return client.post(CHUNK, params=_others(chunk), content=gzip.compress(chunk["content"]), headers=fields)


def as_gzip_msgpack(client: httpx.Client, chunk: Fields) -> httpx.Response:
    fields = {"Content-Encoding": "gzip", "Content-Type": "application/x-msgpack", "Accept": "application/json"}
    return client.post(CHUNK, content=gzip.compress(msgpack.packb(chunk)), headers=fields)


def as_gzip_form(client: httpx.Client, chunk: Fields) -> httpx.Response:
    texts = {name: str(value) for name, value in _others(chunk).items()}
    form = client.build_request("POST", CHUNK, data=texts, files={"content": ("blob", chunk["content"])})
    fields = {"Content-Encoding": "gzip", "Content-Type": form.headers["content-type"]}
    return client.post(CHUNK, content=gzip.compress(form.read()), headers=fields)


TEXT: tuple[Send, ...] = (as_json_text, as_form_text)
BINARY: tuple[Send, ...] = (
    as_json_integers, as_json_base64, as_msgpack, as_form, as_query, as_gzip, as_gzip_msgpack, as_gzip_form,
)  # fmt: skip
EVERY = pytest.mark.parametrize("send", [*TEXT, *BINARY], ids=lambda send: str(send.__name__)[3:])


def chunk_of(content: bytes, *, number: int = 0, count: int = 1, size: int | None = None, uid: str = "") -> Fields:
    """A chunk request."""
    return {
        "chunkCount": count, "chunkNumber": number, "content": content, "fileName": "x/../ä.bin",
        "totalSize": len(content) if size is None else size, "uploadUid": uid,
    }  # fmt: skip


def upload_of(answer: httpx.Response) -> str:
    """The upload that an answer names."""
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"uploadUid"}
    return str(answer.json()["uploadUid"])


def got(client: httpx.Client, uid: str) -> httpx.Response:
    """What is there of an upload."""
    return client.get(f"/v1/upload/id/{uid}")


@EVERY
def test_a_chunk_in_each_format(send: Send, client: httpx.Client) -> None:
    """Three chunks, each of every byte that the format can have, become one file."""
    piece = "ä\x00\r\n--\u2028𝄞".encode() if send in TEXT else bytes(range(256)) * 9
    uid = ""
    for number in range(3):
        chunk = chunk_of(piece * (number + 1), number=number, count=3, size=len(piece) * 6, uid=uid)
        uid = upload_of(send(client, chunk))
    answer = got(client, uid)
    assert (answer.status_code, answer.content) == (200, piece * 6)
    assert "..%2F" not in answer.headers["content-disposition"]


def test_a_format_may_begin_what_another_ends(client: httpx.Client) -> None:
    """An upload is of chunks, not of a format."""
    uid, whole = "", blob(8_000)
    for number, send in enumerate(BINARY):
        part = whole[number * 1000 : (number + 1) * 1000]
        uid = upload_of(send(client, chunk_of(part, number=number, count=8, size=8_000, uid=uid)))
    assert got(client, uid).content == whole


@pytest.mark.parametrize(
    ("accept", "kind", "packed"),
    [
        (None, "application/json", False),
        (None, "application/msgpack", True),
        ("*/*", "application/msgpack", True),
        ("application/msgpack", "application/json", True),
        ("application/vnd.msgpack", "application/json", True),
        ("application/json", "application/msgpack", False),
        ("application/json, application/msgpack;q=0", "application/msgpack", False),
        ("text/html", "application/json", False),
    ],
)
def test_the_answer_is_in_the_format_that_was_asked_for(
    accept: str | None, kind: str, packed: bool, client: httpx.Client
) -> None:
    """By name in Accept, else as the chunk came; errors, too."""
    fields = {"Content-Type": kind} | ({} if accept is None else {"Accept": accept})
    right = chunk_of(b"x") if kind == "application/msgpack" else chunk_of(b"x") | {"content": "x"}
    for chunk, status in ((right, 200), (right | {"chunkNumber": -1}, 400)):
        body = msgpack.packb(chunk) if kind == "application/msgpack" else json.dumps(chunk).encode()
        answer = client.post(CHUNK, content=body, headers=fields)
        assert answer.status_code == status
        assert answer.headers["content-type"] == ("application/msgpack" if packed else "application/json")
        document = msgpack.unpackb(answer.content) if packed else answer.json()
        if status == 200:
            assert list(document) == ["uploadUid"]
        else:
            assert document["status"] == 400
            assert document["error"]["code"] == "chunk_invalid"
            assert document["error"]["info"].startswith("chunkNumber: expected ")


def test_curl_sends_chunks(shared_server: Any, client: httpx.Client, tmp_path: Path) -> None:
    """With nothing but curl and split: raw, the other fields in the query."""
    whole = blob(2_500_000)
    uid = ""
    for number in range(3):
        part = tmp_path / str(number)
        part.write_bytes(whole[number * MIB : (number + 1) * MIB])
        query = f"chunkCount=3&chunkNumber={number}&fileName=x&totalSize=2500000&uploadUid={uid}"
        argv = [
            "curl",
            "-sS",
            "--fail-with-body",
            "--data-binary",
            f"@{part}",
            f"{shared_server.url}{CHUNK}?{query}",
        ]
        done = subprocess.run(argv, capture_output=True, check=True)
        uid = json.loads(done.stdout)["uploadUid"]
    assert got(client, uid).content == whole


# --- any order, any size -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_chunks_in_any_order_at_once(seed: int, client: httpx.Client) -> None:
    """Of any sizes, the first to arrive not number 0, several at once and some of them twice."""
    dice = random.Random(seed)
    sizes = [dice.choice((0, 1, 1000, dice.randrange(100_000))) for _ in range(40)]
    whole = blob(sum(sizes))
    starts = [0, *itertools.accumulate(sizes)]
    order = [*range(40), *dice.sample(range(40), 10)]
    dice.shuffle(order)

    def send(number: int, uid: str) -> str:
        part = whole[starts[number] : starts[number + 1]]
        return upload_of(as_query(client, chunk_of(part, number=number, count=40, size=len(whole), uid=uid)))

    uid = send(order[0], "")
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, order[1:], itertools.repeat(uid))) <= {uid}
    answer = got(client, uid)
    assert (answer.status_code, answer.content) == (200, whole)
    assert answer.headers["repr-digest"] == repr_digest(whole)


def repr_digest(body: bytes) -> str:
    """RFC 9530."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def test_a_chunk_may_be_replaced_until_the_upload_is_complete(client: httpx.Client) -> None:
    """With the same bytes nothing changes, with others the last one counts; afterwards, others are refused."""
    uid = upload_of(as_query(client, chunk_of(b"old!", number=1, count=2, size=7)))
    for content in (b"old!", b"newer", b"new"):
        upload_of(as_query(client, chunk_of(content, number=1, count=2, size=7, uid=uid)))
    upload_of(as_query(client, chunk_of(b"1234", number=0, count=2, size=7, uid=uid)))
    assert got(client, uid).content == b"1234new"
    upload_of(as_query(client, chunk_of(b"new", number=1, count=2, size=7, uid=uid)))
    refused = as_query(client, chunk_of(b"odd", number=1, count=2, size=7, uid=uid))
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "upload_finished")
    assert got(client, uid).content == b"1234new"


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_empty_file(count: int, client: httpx.Client) -> None:
    """Of no chunk's content, or of several."""
    uid = ""
    for number in range(max(count, 1)):
        uid = upload_of(as_query(client, chunk_of(b"", number=number, count=count, size=0, uid=uid)))
    answer = got(client, uid)
    assert (answer.status_code, answer.content) == (200, b"")


def test_what_is_missing_is_told(client: httpx.Client) -> None:
    """Until the last chunk is there; and that they do not add up, when they are all there, at the upload."""
    uid = upload_of(as_query(client, chunk_of(b"12", number=2, count=4, size=8)))
    answer = got(client, uid)
    assert answer.status_code == 409
    assert "chunks 0 to 1, 3 to 3" in answer.json()["detail"]
    for number in (0, 1, 3):
        upload_of(as_query(client, chunk_of(b"123", number=number, count=4, size=8, uid=uid)))
    answer = got(client, uid)
    assert (answer.status_code, answer.json()["code"]) == (422, "upload_mismatch")
    assert "8" in answer.json()["detail"]
    assert "11" in answer.json()["detail"]
    upload_of(as_query(client, chunk_of(b"", number=3, count=4, size=8, uid=uid)))
    assert got(client, uid).content == b"12312312"


def test_a_chunk_with_a_digest(client: httpx.Client) -> None:
    """Nothing of a chunk with another digest counts."""
    sha256 = hashlib.sha256(b"hello").hexdigest()
    wrong = as_query(client, chunk_of(b"hullo", size=5) | {"digest": f"sha256:{sha256}"})
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (422, "upload_checksum_mismatch")
    uid = upload_of(as_query(client, chunk_of(b"hello") | {"digest": f"sha256:{sha256}"}))
    assert got(client, uid).content == b"hello"


def test_many_chunks(client: httpx.Client) -> None:
    """A thousand of a few bytes each, at once."""
    uid = upload_of(as_query(client, chunk_of(b"000000", number=0, count=1000, size=6000)))

    def send(number: int) -> str:
        chunk = chunk_of(b"%06d" % number, number=number, count=1000, size=6000, uid=uid)
        return upload_of(as_query(client, chunk))

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(1, 1000))) == {uid}
    assert got(client, uid).content == b"".join(b"%06d" % number for number in range(1000))


def test_a_hundred_thousand_chunks(bay: Forebay, count: int = 100_000) -> None:
    """All but the last of them sent before, each by itself, in the opposite order: the last one makes them a file, and
    what it takes to put them in order is seconds."""
    message = IncomingMessage("POST", CHUNK)

    def send(number: int, uid: str) -> str:
        chunk = ChunkRequest(**chunk_of(b"%06d" % number, number=number, count=count, size=6 * count, uid=uid))
        return bay.uploads.handle_chunk_request(message, chunk).uploadUid

    uid = send(count - 1, "")
    # What the catalog and the file have after so many; sending them takes minutes, one disk write each.
    rows = [(uid, number, number, 6 * (2 * count - number), 6) for number in range(1, count - 1)]
    with closing(sqlite3.connect(bay.folder / "catalog.sqlite", timeout=30)) as catalog, catalog:
        catalog.executemany("INSERT INTO upload_chunks VALUES (?, ?, ?, ?, ?, NULL)", rows)
        catalog.execute("UPDATE uploads SET claims = ?, tail = ? WHERE id = ?", (count, 12 * count, uid))
    (part,) = bay.folder.rglob(f"{uid}*.part")
    with part.open("r+b") as file:
        for _, number, _, offset, _ in rows:
            file.seek(offset)
            file.write(b"%06d" % number)
    with pytest.raises(UploadIncomplete, match="chunks 0 to 0 have not arrived"):
        bay.uploads.get_upload(uid)
    send(0, uid)
    with bay.uploads.get_upload(uid).open() as whole:
        assert whole.read() == b"".join(b"%06d" % number for number in range(count))


# --- what is refused ---------------------------------------------------------------------------------------


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of what was refused."""
    document = answer.json()
    assert set(document) == {"status", "error"}
    assert set(document["error"]) == {"code", "info"}
    assert document["status"] == answer.status_code
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, document["error"]["code"]


WRONG: list[Fields] = [
    {"chunkNumber": -1}, {"chunkNumber": 1}, {"chunkNumber": 2**63}, {"chunkNumber": 10**30},
    {"chunkCount": -1}, {"chunkCount": 2_000_000}, {"totalSize": -1}, {"totalSize": 2**63},
    {"fileName": "x" * 5000}, {"other": 1}, {"Content": b"x"}, {"uploaduid": ""}, {"x" * 3000: ""},
]  # fmt: skip
WRONG_TYPES: list[Fields] = [
    {"chunkNumber": "0"}, {"chunkNumber": 0.0}, {"chunkNumber": True}, {"chunkNumber": None}, {"chunkNumber": []},
    {"fileName": 1}, {"fileName": None}, {"fileName": ["x"]}, {"uploadUid": None}, {"uploadUid": 0},
    {"digest": 1}, {"totalSize": "1"}, {"totalSize": {}},
]  # fmt: skip


@pytest.mark.parametrize("send", BINARY, ids=lambda send: str(send.__name__)[3:])
def test_what_cannot_be_is_refused(send: Send, client: httpx.Client) -> None:
    """400 for a value that cannot be and for a name that is unknown, in each format."""
    for wrong in WRONG:
        if send in (as_msgpack, as_gzip_msgpack) and any(value == 10**30 for value in wrong.values()):
            continue  # there is no such number
        if "Content" in wrong and send in (as_json_integers, as_json_base64):
            wrong = {"Content": "x"}
        assert refusal(send(client, chunk_of(b"x") | wrong)) == (400, "chunk_invalid"), wrong
    for name in ("chunkCount", "chunkNumber", "fileName", "totalSize"):
        chunk = {key: value for key, value in chunk_of(b"x").items() if key != name}
        assert refusal(send(client, chunk)) == (400, "chunk_invalid"), name
    assert refusal(send(client, chunk_of(b"x", uid="0" * 32))) == (404, "upload_unknown")
    assert refusal(send(client, chunk_of(b"x", uid="../x"))) == (404, "upload_unknown")


def test_wrong_types_are_refused(client: httpx.Client) -> None:
    """A number is no text, a text no number, and truth is neither."""
    for wrong in WRONG_TYPES:
        assert refusal(client.post(CHUNK, json=chunk_of(b"x") | {"content": "x"} | wrong)) == (400, "chunk_invalid")
        fields = {"Content-Type": "application/msgpack", "Accept": "application/json"}
        answer = client.post(CHUNK, content=msgpack.packb(chunk_of(b"x") | wrong), headers=fields)
        assert refusal(answer) == (400, "chunk_invalid"), wrong
    for content in (1, None, [256], [-1], [1.0], [True], ["x"], [[1]], {"x": 1}, True):
        answer = client.post(CHUNK, json=chunk_of(b"x") | {"content": content})
        assert refusal(answer) == (400, "chunk_invalid"), content
    for wrong in ({"contentBase64": "%"}, {"contentBase64": 1}, {"contentBase64": "eA==", "content": "x"}, {}):
        assert refusal(client.post(CHUNK, json=_others(chunk_of(b"x")) | wrong)) == (400, "chunk_invalid"), wrong


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"x"', b"\xff", b"[" * 200_000, b'{"a":' * 5000, b'{"totalSize": NaN}',
        b'{"content": "\\ud800", "chunkCount": 1}', b'{"content": "x", "content": "y"}', b"1" * 5000,
        b'{"chunkNumber": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes, client: httpx.Client) -> None:
    """400, whatever it is."""
    answer = client.post(CHUNK, content=body, headers={"Content-Type": "application/json"})
    assert refusal(answer) == (400, "chunk_invalid")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xc1", b"\x90", b"\x81\xa1a", b"\x81\x01\x02", b"\x80\x80", b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x81" * 10_000,
        b"\x82\xa1a\x01\xa1a\x01", b"\xd4\x01\x00", b"\x81\xa7content\x91\x01", b"\x81\xa1\xff\x01",
    ],
    ids=lambda body: repr(body[:12]),
)  # fmt: skip
def test_what_is_no_messagepack_map_is_refused(body: bytes, client: httpx.Client) -> None:
    """400, also when it claims to be larger than it is."""
    fields = {"Content-Type": "application/msgpack", "Accept": "application/json"}
    assert refusal(client.post(CHUNK, content=body, headers=fields)) == (400, "chunk_invalid")


def test_what_is_no_form_is_refused(client: httpx.Client) -> None:
    """Without its end, without a boundary, with a part twice."""
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="chunkCount"\r\n\r\n1\r\n'
    for body, fields in (
        (part, kind),
        (part + b"--b--\r\n", {"Content-Type": "multipart/form-data"}),
        (b"x", kind),
        (part * 2 + b"--b--\r\n", kind),
        (part.replace(b"form-data;", b'form-data; filename="x";') + b"--b--\r\n", kind),
    ):
        status, code = refusal(client.post(CHUNK, content=body, headers=fields))
        assert (status, code) in ((400, "form_invalid"), (400, "chunk_invalid"))


def test_a_query_that_cannot_be_is_refused(client: httpx.Client) -> None:
    """A name twice, numbers that are none, bytes that are no UTF-8."""
    fine = "chunkCount=1&chunkNumber=0&fileName=x&totalSize=1&uploadUid="
    for query in (
        fine + "&chunkCount=1", fine.replace("=0", "=+0"), fine.replace("=0", "=0x0"), fine.replace("=0", "="),
        fine + "&content=x", fine + "&contentBase64=eA==", fine.replace("=x", "=%ff"), "x",
        fine.replace("=0", "=%D9%A0"),
    ):  # fmt: skip
        assert refusal(client.post(f"{CHUNK}?{query}", content=b"x")) == (400, "chunk_invalid"), query


def test_types_and_codings_that_are_not_taken(client: httpx.Client) -> None:
    """415, which says what is."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
        answer = client.post(CHUNK, content=b"x", headers={"Content-Type": kind})
        assert refusal(answer) == (415, "media_type_refused")
    for coding in ("br", "deflate", "gzip, gzip", "x"):
        answer = client.post(CHUNK, content=b"x", headers={"Content-Encoding": coding})
        assert refusal(answer) == (415, "coding_refused")
        assert answer.headers["accept-encoding"] == "gzip"


def test_what_unpacks_to_too_much_is_refused(client: httpx.Client) -> None:
    """A hundred times its size beyond 1 MiB, or 64 MiB: 413, before it is unpacked. A small chunk of zeros is fine."""
    params = _others(chunk_of(b"", size=MIB))
    fields = {"Content-Encoding": "gzip"}

    def send(body: bytes) -> httpx.Response:
        return client.post(CHUNK, params=params, content=body, headers=fields)

    assert got(client, upload_of(send(gzip.compress(bytes(MIB))))).content == bytes(MIB)
    assert refusal(send(gzip.compress(bytes(2 * MIB)))) == (413, "body_too_large")
    assert refusal(send(gzip.compress(bytes(500 * MIB)))) == (413, "body_too_large")
    assert refusal(send(b"".join(gzip.compress(bytes(MIB)) for _ in range(60)))) == (413, "body_too_large")
    for body in (b"", b"x", gzip.compress(b"x")[:-1], zlib.compress(b"x"), gzip.compress(b"x") + b"y",
                 gzip.compress(b"") * 10_000):  # fmt: skip
        assert refusal(send(body)) == (400, "chunk_invalid")


def test_what_is_too_large_is_not_read(client: httpx.Client) -> None:
    """64 MiB, and 16 MiB of JSON."""
    for size, fields in ((65 * MIB, {}), (17 * MIB, {"Content-Type": "application/json"})):
        sent = {"Content-Length": str(size), "Expect": "100-continue"} | fields
        argv = ["curl", "-sS", "-m", "60", "-X", "POST", "--data-binary", "@-", "-o", "-"]
        argv += [f"-H{name}: {value}" for name, value in sent.items()]
        where = str(client.base_url.join(CHUNK)) + ("" if fields else "?chunkCount=1")
        done = subprocess.run([*argv, where], input=b"x" * 100, capture_output=True)
        assert json.loads(done.stdout)["error"]["code"] == "body_too_large"

    def endless() -> Iterator[bytes]:
        for _ in range(70):
            yield bytes(MIB)

    answer = client.post(CHUNK, params={"chunkCount": 1}, content=endless())
    assert refusal(answer) == (413, "body_too_large")


def test_other_methods_are_refused(client: httpx.Client) -> None:
    """405, which names those that are not."""
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        answer = client.request(method, CHUNK)
        assert refusal(answer) == (405, "method_refused")
        assert answer.headers["allow"] == "OPTIONS, POST"
    assert client.head(CHUNK).status_code == 405
    assert client.options(CHUNK).headers["allow"] == "OPTIONS, POST"


# --- whose it is -------------------------------------------------------------------------------------------


def test_chunks_belong_to_a_token(serve: Callable[..., Any]) -> None:
    """Without one, 401 in the format of chunks; with one that may only read, 403; with another's, 404."""
    served = serve()
    secrets = {}
    for name, scopes in (("one", "read,write"), ("two", "read,write"), ("three", "read")):
        argv = [sys.executable, "-m", "forebay", "token", "add", name, "--scope", scopes, "--json"]
        made = subprocess.run([*argv, "--data", str(served.folder)], capture_output=True, text=True, check=True)
        secrets[name] = json.loads(made.stdout)["secret"]

    def of(name: str) -> httpx.Client:
        return httpx.Client(
            base_url=served.url, headers={"Authorization": f"Bearer {secrets[name]}"}, timeout=60, trust_env=False
        )

    with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as nobody:
        answer = as_msgpack(nobody, chunk_of(b"x"))
        assert refusal(answer) == (401, "token_missing")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    with of("one") as one, of("two") as two, of("three") as three:
        assert refusal(as_query(three, chunk_of(b"x"))) == (403, "scope_missing")
        uid = upload_of(as_query(one, chunk_of(b"1", number=1, count=2, size=2)))
        assert refusal(as_query(two, chunk_of(b"2", number=0, count=2, size=2, uid=uid))) == (404, "upload_unknown")
        upload_of(as_query(one, chunk_of(b"0", number=0, count=2, size=2, uid=uid)))
        assert got(one, uid).content == b"01"
        assert got(two, uid).status_code == 404


FUNCTION = """
import forebay
from forebay import ChunkRequest, ChunkResponse, IncomingMessage

bay = forebay.open("{folder}")


@bay.expose
def put(chunk: ChunkRequest, message: IncomingMessage) -> ChunkResponse:
    if chunk.fileName.startswith("x"):
        raise forebay.RequestError("no x")
    return bay.uploads.handle_chunk_request(message, chunk)
"""


def test_a_function_that_takes_chunks(serve: Callable[..., Any], tmp_path: Path) -> None:
    """It looks first; what it hands over belongs to the token that called it, in later chunks and in any protocol."""
    (tmp_path / "functions.py").write_text(FUNCTION.format(folder=tmp_path / "served"))
    served = serve("--functions", str(tmp_path / "functions.py"))
    clients = {}
    with ExitStack() as stack:
        for name in ("one", "two"):
            argv = [sys.executable, "-m", "forebay", "token", "add", name, "--scope", "read,write,call", "--json"]
            made = subprocess.run([*argv, "--data", str(served.folder)], capture_output=True, text=True, check=True)
            fields = {"Authorization": f"Bearer {json.loads(made.stdout)['secret']}"}
            client = httpx.Client(base_url=served.url, headers=fields, timeout=60, trust_env=False)
            clients[name] = stack.enter_context(client)

        def call(name: str, **fields: Any) -> httpx.Response:
            chunk = {"chunkCount": 2, "chunkNumber": 0, "content": "ab", "fileName": "a", "totalSize": 4} | fields
            return clients[name].post("/v1/call/put", json={"chunk": {"uploadUid": "", **chunk}})

        assert "no x" in call("one", fileName="x").text
        uid = call("one").json()["uploadUid"]
        assert call("two", chunkNumber=1, uploadUid=uid).status_code == 404
        assert call("one", chunkNumber=1, uploadUid=uid, content="cd").json() == {"uploadUid": uid}
        assert got(clients["one"], uid).content == b"abcd"
        assert got(clients["two"], uid).status_code == 404


def test_pages_of_other_sites_are_refused(client: httpx.Client) -> None:
    """A form of another site could send a chunk as well as anything."""
    answer = client.post(
        CHUNK, params=_others(chunk_of(b"x")), content=b"x", headers={"Origin": "https://evil.example"}
    )
    assert refusal(answer) == (403, "cross_site_refused")
