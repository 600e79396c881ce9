"""Functions of a user's file behind a real `forebay serve --functions`: how they are called, and what they answer."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from origin import Origin, Resource, blob
from processes import PROC, api_processes

FUNCTIONS = Path(__file__).parents[1] / "exposed.py"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def served(serve_shared: Any) -> Any:
    """One server for the module."""
    return serve_shared("--functions", str(FUNCTIONS))


@pytest.fixture
def http(served: Any) -> Iterator[httpx.Client]:
    """A client of it."""
    with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as client:
        yield client


def problem(answer: httpx.Response) -> tuple[int, str, Any]:
    """Status, code and field of a problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    told = answer.json()
    return answer.status_code, told["code"], told.get("field")


# --- what goes in -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        {"method": "GET", "params": {"year": "2026", "tags": ["a", "b"]}},
        {"method": "GET", "params": {"params": '{"year": 2026, "tags": ["a", "b"]}'}},
        {"method": "GET", "params": {"params": '[2026, "pdf", ["a", "b"]]'}},
        {"method": "POST", "params": {"year": "2026", "tags": ["a", "b"]}},
        {"method": "POST", "json": {"year": 2026, "tags": ["a", "b"]}},
        {"method": "POST", "json": [2026, "pdf", ["a", "b"]]},
        {"method": "POST", "data": {"year": "2026", "tags": ["a", "b"]}},
        {"method": "POST", "data": {"year": "2026"}, "files": [("tags", (None, "a")), ("tags", (None, "b"))]},
    ],
)
def test_parameters_come_in_every_way(http: httpx.Client, ask: dict[str, Any]) -> None:
    """A query, JSON in a query, a JSON object or array, a form, a multipart form."""
    answer = http.request(url="/v1/call/report", **ask)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"year": 2026, "format": "pdf", "tags": ["a", "b"]}
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        ({"method": "GET"}, (422, "value_invalid", "year")),
        ({"method": "GET", "params": {"year": "x"}}, (422, "value_invalid", "year")),
        ({"method": "GET", "params": {"year": "1", "other": "1"}}, (422, "value_invalid", "other")),
        ({"method": "GET", "params": {"year": ["1", "2"]}}, (422, "value_invalid", "year")),
        ({"method": "POST", "json": {"year": [1]}}, (422, "value_invalid", "year")),
        ({"method": "POST", "json": 7}, (422, "value_invalid", "body")),
        ({"method": "POST", "json": {"year": 1}, "params": {"year": 1}}, (422, "value_invalid", "query")),
        ({"method": "POST", "content": b"{", "headers": JSON}, (400, "body_invalid", None)),
        ({"method": "POST", "content": b"year=1"}, (415, "media_type_refused", None)),
        ({"method": "POST", "content": b"x", "headers": {"Content-Type": "text/plain"}}, (415, "media_type_refused", None)),
        ({"method": "POST", "files": {"year": b"1"}}, (422, "value_invalid", "year")),
        ({"method": "POST", "content": b"--x\r\n", "headers": {"Content-Type": "multipart/form-data"}}, (400, "form_invalid", None)),
        ({"method": "POST", "content": b'--x\r\nContent-Disposition: form-data; name="year"\r\n\r\n1',
          "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, (400, "form_invalid", None)),
        ({"method": "POST", "content": b"year=%ff", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, (400, "form_invalid", None)),
        ({"method": "GET", "url": "/v1/call/report?year=%ff"}, (422, "value_invalid", "query")),
        ({"method": "PUT", "json": {"year": 1}}, (405, "method_refused", None)),
        ({"method": "GET", "url": "/v1/call/"}, (404, "function_unknown", None)),
        ({"method": "GET", "url": "/v1/call/Report"}, (404, "function_unknown", None)),
        ({"method": "GET", "url": "/v1/call/_private"}, (404, "function_unknown", None)),
        ({"method": "GET", "url": "/v1/call/SearchQuery"}, (404, "function_unknown", None)),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(http: httpx.Client, ask: dict[str, Any], expected: Any) -> None:
    """The parameter, or what the body is not; only what is exposed can be called."""
    answer = http.request(**{"url": "/v1/call/report", **ask})
    assert problem(answer) == expected


def test_get_is_for_what_says_so(http: httpx.Client) -> None:
    """Otherwise 405, with what is allowed."""
    answer = http.get("/v1/call/doubled")
    assert problem(answer)[:2] == (405, "method_refused")
    assert answer.headers["allow"] == "POST"
    assert http.put("/v1/call/report").headers["allow"] == "GET, HEAD, POST"
    assert http.delete("/item/7").headers["allow"] == "GET, HEAD, PUT"


def test_files_are_uploaded(http: httpx.Client) -> None:
    """Beside texts, several under one name; small ones and ones that go to the disk."""
    large = blob(3 << 20)
    files = [
        ("file", ("ü/../a.csv", b"1,2", "text/csv")),
        ("more", ("b", large, "application/octet-stream")),
        ("more", ("c", b"", "image/png")),
    ]
    answer = http.post("/v1/call/uploaded", files=files, data={"note": "n"})
    assert answer.status_code == 200, answer.text
    note, first, second, third = answer.json()
    assert third == ["c", "image/png", 0, ""]
    assert note == "n"
    assert first == ["ü/../a.csv", "text/csv", 3, b"1,2".hex()]
    assert second == ["b", "application/octet-stream", len(large), large[:4].hex()]
    assert problem(http.post("/v1/call/uploaded", data={"file": "text"})) == (422, "value_invalid", "file")
    assert problem(http.post("/v1/call/uploaded", json={"file": "text"})) == (422, "value_invalid", "file")


def test_a_message_can_be_read_by_the_function(http: httpx.Client) -> None:
    """Its verb, path, query, headers and body; the path decoded after it was split."""
    answer = http.post("/start/a/b%2Fc%20d?q=1&r=%C3%BC", content="tälk", headers={"User-Agent": "me"})
    assert answer.text == "POST|start|a|b/c d|1|ü|tälk"
    assert answer.headers["x-agent"] == "me"
    assert http.get("/start/").text.startswith("GET|start|")
    assert problem(http.get("/start"))[:2] == (404, "path_unknown")


def test_a_body_can_be_read_piece_by_piece(http: httpx.Client) -> None:
    """However large, with and without a length; and JSON without waiting."""
    large = blob(5 << 20)
    assert http.post("/v1/call/letters", content=large).json() == len(large)
    pieces = (large[at : at + 65536] for at in range(0, len(large), 65536))
    assert http.post("/v1/call/letters", content=pieces).json() == len(large)
    assert http.post("/v1/call/doubled", json=[1]).json() == [1, 1]
    assert http.post("/v1/call/doubled", content=iter([b"[", b"1]"])).json() == [1, 1]


def test_places_of_a_path_fill_parameters(http: httpx.Client) -> None:
    """Beside those of the query and the body; what is nobody's is nobody's business."""
    assert http.get("/item/7?utm=x&note=n").json() == {"number": 7, "note": "n"}
    assert http.put("/item/7", json={"note": "n"}).json() == {"number": 7, "note": "n"}
    assert http.put("/item/7", data={"note": "n"}).json() == {"number": 7, "note": "n"}
    for other in ({"json": {"number": 8}}, {"data": {"number": 8}}, {"params": {"number": 8}}):
        assert http.put("/item/7", **other).json() == {"number": 7, "note": ""}  # type: ignore[arg-type]
    assert http.get("/item/7", params={"params": '{"number": 8}'}).json() == {"number": 7, "note": ""}
    assert problem(http.get("/item/x")) == (422, "value_invalid", "number")


# --- what comes out ---------------------------------------------------------------------------------------


def test_head_gets_no_body(http: httpx.Client) -> None:
    """But the fields."""
    answer = http.head("/v1/call/text")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "1024", b"")
    assert http.get("/v1/call/text").text == "x" * 1024


def test_answers_say_how_they_are_cached_and_guarded(http: httpx.Client) -> None:
    """What the function says; unless it does, caches must ask."""
    answer = http.get("/v1/call/text")
    assert answer.headers["cache-control"] == "max-age=60"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert http.get("/v1/call/report?year=1").headers["cache-control"] == "no-cache"


def test_nothing_is_204(http: httpx.Client) -> None:
    """Without a body."""
    answer = http.get("/v1/call/nothing")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "content-length" not in answer.headers


def test_a_response_can_be_written(http: httpx.Client) -> None:
    """Piece by piece."""
    answer = http.post("/v1/call/catalogue/search", json={"query": {"word": "w", "limit": 2}})
    assert answer.text == "w 0\nw 1\n"
    assert answer.headers["x-word"] == "w"
    wrong = http.post("/v1/call/catalogue/search", json={"query": {"word": "w", "limit": "x"}})
    assert problem(wrong) == (422, "value_invalid", "query.limit")


@pytest.mark.parametrize("name", ["stored", "copied"])
def test_a_version_is_served_with_ranges_and_validators(http: httpx.Client, origin: Origin, name: str) -> None:
    """A stored one as such, and as a file."""
    body = blob(100_000)
    origin.serve("/f", Resource(body, media_type="text/csv"))
    params = {"url": origin.url("/f")}
    whole = http.get(f"/v1/call/{name}", params=params)
    assert whole.content == body
    assert whole.headers["cache-control"] == "no-cache"
    part = http.get(f"/v1/call/{name}", params=params, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, body[10:20])
    again = http.get(f"/v1/call/{name}", params=params, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    if name == "stored":
        assert whole.headers["content-type"] == "text/csv"
        assert "repr-digest" in whole.headers


def test_a_version_goes_out_with_the_messages_fields(http: httpx.Client, origin: Origin) -> None:
    """In place of those of the version's own place."""
    origin.serve("/f", Resource(b"1,2", media_type="text/csv"))
    answer = http.get("/v1/call/stored", params={"url": origin.url("/f"), "name": "ü.csv"})
    assert answer.content == b"1,2"
    assert answer.headers["cache-control"] == "max-age=7"
    assert "filename*=UTF-8''%C3%BC.csv" in answer.headers["content-disposition"]
    assert answer.headers.get_list("content-type") == ["text/csv"]
    again = http.get(
        "/v1/call/stored",
        params={"url": origin.url("/f"), "name": "ü.csv"},
        headers={"If-None-Match": answer.headers["etag"]},
    )
    assert again.status_code == 304
    assert again.headers["cache-control"] == "max-age=7"


def test_an_error_tells_nothing_but_an_id_that_the_log_has_too(http: httpx.Client, served: Any) -> None:
    """Neither the exception nor its text."""
    answer = http.get("/v1/call/failing")
    assert problem(answer)[:2] == (500, "function_failed")
    assert "hunter2" not in answer.text
    assert "ValueError" not in answer.text
    found = served.wait_to_say(rf"^.*\[{answer.json()['id']}\]$")
    assert "/v1/call/failing: hunter2" in found[0]


def test_a_cancellation_of_its_own_is_an_error_like_others(http: httpx.Client, served: Any) -> None:
    """A coroutine may wait for a task that was cancelled."""
    answer = http.get("/v1/call/cancelled")
    assert problem(answer)[:2] == (500, "function_failed")
    served.wait_to_say(rf"/v1/call/cancelled: the function raised CancelledError \[{answer.json()['id']}\]$")


def test_an_error_of_the_callers_is_told(http: httpx.Client) -> None:
    """A function may refuse a value as the server does."""
    assert problem(http.get("/v1/call/picky?number=3")) == (422, "value_invalid", "number")
    assert http.get("/v1/call/picky?number=4").json() == 4


def test_what_a_function_cannot_fetch_is_not_named(http: httpx.Client, served: Any) -> None:
    """It may be nobody's business; how it went is."""
    answer = http.get("/v1/call/unreachable")
    status, code, _ = problem(answer)
    assert (status, code) == (504, "origin_unreachable")
    assert "secret-place" not in answer.text
    served.wait_to_say(rf"secret-place.*\[{answer.json()['id']}\]|\[{answer.json()['id']}\]")


# --- who may ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/call/text"), ("POST", "/v1/call/text"), ("GET", "/item/7")]
)
def test_pages_of_other_sites_call_nothing(
    http: httpx.Client, method: str, path: str, field: dict[str, str]
) -> None:
    """Not with GET either: a function does something."""
    assert problem(http.request(method, path, headers=field))[:2] == (403, "cross_site_refused")
    own = {"Sec-Fetch-Site": "same-origin", "Origin": str(http.base_url).rstrip("/")}
    assert http.request(method, path, headers=own).status_code == 200


def test_a_function_needs_a_token_with_its_scope(serve: Any) -> None:
    """``call``, unless it says another; a token for all may call all, and without one nobody learns what there is."""
    served = serve("--functions", str(FUNCTIONS))
    secrets = {}
    for scope in ("read", "call", "admin"):
        argv = [sys.executable, "-m", "forebay", "token", "add", scope, "--scope", scope, "--json"]
        made = subprocess.run([*argv, "--data", str(served.folder)], capture_output=True, text=True, check=True)
        secrets[scope] = json.loads(made.stdout)["secret"]
    with httpx.Client(base_url=served.url, trust_env=False, timeout=60) as http:

        def asked(path: str, scope: str | None) -> int:
            fields = {} if scope is None else {"Authorization": f"Bearer {secrets[scope]}"}
            return http.get(path, headers=fields).status_code

        for path, expected in (
            ("/v1/call/text", (401, 403, 200, 200)),
            ("/v1/call/governed", (401, 403, 403, 200)),
            ("/v1/call/unknown", (401, 403, 404, 404)),
            ("/item/7", (401, 403, 200, 200)),
        ):
            assert tuple(asked(path, scope) for scope in (None, "read", "call", "admin")) == expected, path


def test_the_gate_holds_for_functions(serve: Any, origin: Origin) -> None:
    """What a client names must not reach what only the server reaches; whatever the file says."""
    served = serve("--functions", str(FUNCTIONS), env={"FOREBAY_ALLOW_PRIVATE": "false"})
    with httpx.Client(base_url=served.url, trust_env=False, timeout=60) as http:
        answer = http.get("/v1/call/stored", params={"url": origin.url("/f")})
    assert problem(answer)[:2] == (403, "origin_refused")
    assert origin.requests() == []


# --- the documents --------------------------------------------------------------------------------------------


def test_the_openapi_document_lists_every_function(http: httpx.Client) -> None:
    """With parameters, bodies and answers; so does its page."""
    document = http.get("/openapi.json").json()
    report = document["paths"]["/v1/call/report"]
    assert report["get"]["description"] == "A report of a year."
    year, format, tags = report["get"]["parameters"]
    assert (year["name"], year["required"], year["schema"]["type"]) == ("year", True, "integer")
    assert (format["required"], format["schema"]["default"]) == (False, "pdf")
    assert tags["in"] == "query"
    body = report["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert (list(body["properties"]), body["required"]) == (["year", "format", "tags"], ["year"])
    assert set(report) == {"get", "post"}
    assert set(document["paths"]["/v1/call/doubled"]) == {"post"}
    (kind,) = document["paths"]["/v1/call/uploaded"]["post"]["requestBody"]["content"].items()
    assert kind[0] == "multipart/form-data"
    file = kind[1]["schema"]["properties"]["file"]
    assert (file["type"], file["format"]) == ("string", "binary")
    query = document["paths"]["/v1/call/catalogue/search"]["post"]["requestBody"]["content"]["application/json"]
    assert query["schema"]["properties"]["query"] == {"$ref": "#/components/schemas/functions.SearchQuery"}
    assert "word" in document["components"]["schemas"]["functions.SearchQuery"]["properties"]
    assert "/start/{rest}" in document["paths"]
    assert document["paths"]["/v1/call/nothing"]["get"]["responses"].keys() >= {"204", "422", "503", "504"}
    answer = document["paths"]["/v1/call/picky"]["get"]["responses"]["200"]
    assert answer["content"]["application/json"]["schema"] == {"type": "integer"}
    page = http.get("/docs").text
    assert "/v1/call/catalogue/search" in page
    assert "A report of a year." in page


@PROC
def test_each_api_process_has_the_functions(serve: Any) -> None:
    """As many as there are."""
    served = serve("--functions", str(FUNCTIONS), "--workers", "2")
    assert len(api_processes(served.process.pid)) == 2
    for _ in range(20):
        assert httpx.get(f"{served.url}/v1/call/text", trust_env=False).text == "x" * 1024
    assert served.stop() == 0
