"""The REST API of a real server: every endpoint, and what each refuses."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from origin import Held, Origin, Resource, Status

NEVER = {"recaching_strategy": {"strategy_name": "never"}}
ALWAYS = {"recaching_strategy": {"strategy_name": "when_requested"}, "max_cached_unpinned_versions": 10}


@pytest.fixture
def api(shared_server: Any) -> Iterator[httpx.Client]:
    """A client of a server that may fetch from the tests' origin."""
    with httpx.Client(base_url=shared_server.url, timeout=60, trust_env=False) as client:
        yield client


def order(api: httpx.Client, url: str, **fields: Any) -> str:
    """The id of a Request of *url*, ordered."""
    answer = api.put("/v1/request/", json={"url": url, **fields})
    assert answer.status_code in (201, 202), answer.text
    return str(answer.json()["id"])


def fetch(api: httpx.Client, request_id: str, **wishes: Any) -> httpx.Response:
    """What a fetch gives, however many answers it takes."""
    while True:
        answer = api.post(f"/v1/request/{request_id}/fetch", json={"wait_sec": 30, **wishes})
        if answer.status_code != 202:
            return answer
        wishes["asked_at"] = answer.json()["asked_at"]


def version_of(api: httpx.Client, request_id: str, **wishes: Any) -> dict[str, Any]:
    """The version that a fetch gives."""
    answer = fetch(api, request_id, **wishes)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["response"]
    return found


def changing(origin: Origin) -> None:
    """Serve something else at ``/f`` each time."""
    origin.serve("/f", Resource(lambda _: str(len(origin.requests("/f"))).encode(), etag=None))


def always(api: httpx.Client, origin: Origin) -> tuple[str, dict[str, Any]]:
    """A Request of ``/f`` that is fetched at each `fetch` from now on, and its first version."""
    request_id = order(api, origin.url("/f"), cache_configuration=NEVER)
    first = version_of(api, request_id)
    api.put(f"/v1/request/{request_id}/cache-config", json=ALWAYS)
    return request_id, first


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document that *answer* is."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    found: dict[str, Any] = answer.json()
    assert (found["status"], found["code"], found["type"]) == (status, code, "about:blank"), found
    return found


# --- Requests ---------------------------------------------------------------------------------------------


def test_an_order_is_found_or_created(api: httpx.Client, origin: Origin) -> None:
    """201 with a new Request, 202 with the same one; each with the time of the ask; one GET at the origin."""
    origin.serve("/f", Resource(b"content"))
    first = api.put("/v1/request/", json={"url": origin.url("/f")})
    second = api.put("/v1/request/", json={"url": origin.url("/f")})
    assert (first.status_code, second.status_code) == (201, 202)
    assert first.json()["id"] == second.json()["id"]
    assert first.headers["location"] == f"/v1/request/{first.json()['id']}"
    assert first.json()["request_timestamp"] < second.json()["request_timestamp"]
    assert fetch(api, first.json()["id"]).status_code == 200
    assert len(origin.requests("/f")) == 1


def test_an_order_is_json_without_a_content_type_too(api: httpx.Client, origin: Origin) -> None:
    """What public clients send: no Content-Type, a null for each field that is not set."""
    origin.serve("/f", Resource(b"content"))
    body = {
        "url": origin.url("/f"), "http_method": "get", "http_header_fields": {}, "http_query_params": {},
        "http_request_body": {}, "group_name": None, "description": None, "documentation_link": None,
        "validation_hash_type": "md5",
        "cache_configuration": {"request_id": None, "recaching_strategy": {"strategy_name": "age", "seconds": 5}},
    }  # fmt: skip
    answer = api.put("/v1/request/", content=json.dumps(body).encode())
    assert "content-type" not in answer.request.headers
    assert answer.status_code == 201
    found = answer.json()
    assert (found["group_name"], found["description"], found["validation_hash_type"]) == ("default", "", "md5")
    assert found["cache_configuration"]["recaching_strategy"] == {"strategy_name": "age", "seconds": 5.0}
    assert version_of(api, found["id"])["content_hash_hex"] == "9a0364b9e99bb480dd25e1f0284c8555"


def test_json_must_say_so_elsewhere(api: httpx.Client, origin: Origin) -> None:
    """A page of another site can send a form or plain text without asking first: neither is JSON to us."""
    origin.serve("/f", Resource(b"content"))
    body = json.dumps({"url": origin.url("/f")}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        refused = api.put("/v1/request/", content=body, headers={"Content-Type": kind})
        problem(refused, 415, "media_type_refused")
    request_id = order(api, origin.url("/f"))
    problem(api.post(f"/v1/request/{request_id}/fetch", content=b"{}"), 415, "media_type_refused")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": "http://127.0.0.1/", "colour": 1}, "colour"),
        ({}, "url"),
        ({"url": 5}, "url"),
        ({"url": "http://127.0.0.1/", "http_method": "delete"}, "http_method"),
        ({"url": "http://127.0.0.1/", "http_header_fields": {"a b": "c"}}, "header field name"),
        ({"url": "http://127.0.0.1/", "http_header_fields": {"Host": "x"}}, "http_header_fields.Host"),
        ({"url": "http://127.0.0.1/", "validation_hash_type": "rot13"}, "validation_hash_type"),
        ({"url": "http://127.0.0.1/", "group_name": "g" * 201}, "group_name"),
        (
            {"url": "http://127.0.0.1/", "cache_configuration": {"recaching_strategy": {"strategy_name": "cron",
             "cron": "never"}}},
            "cache_configuration.recaching_strategy.cron.cron",
        ),
        ([], "body"),
    ],
)  # fmt: skip
def test_a_value_that_breaks_its_rule_is_named(api: httpx.Client, body: Any, field: str) -> None:
    """422 with the field and the rule."""
    found = problem(api.put("/v1/request/", json=body), 422, "value_invalid")
    assert found["field"] == field


def test_what_is_no_url_or_no_json_is_refused(api: httpx.Client) -> None:
    """A password in a URL is refused, and not repeated; so is what is no JSON."""
    found = problem(api.put("/v1/request/", json={"url": "http://joe:s3cret@x/"}), 422, "url_invalid")
    assert "s3cret" not in found["detail"]
    problem(api.put("/v1/request/", content=b"{"), 400, "body_invalid")
    problem(api.put("/v1/request/", content=b"\xff\xfe"), 400, "body_invalid")


def test_secrets_do_not_come_back(api: httpx.Client, origin: Origin) -> None:
    """Fields, parameters and a body that were registered are used, and never shown."""
    origin.serve("/f", Resource(lambda seen: seen.fields["authorization"].encode()))
    request_id = order(
        api,
        origin.url("/f?token=s3cret"),
        http_method="post",
        http_header_fields={"Authorization": "Bearer s3cret", "X-Plain": "shown"},
        http_query_params={"api_key": "s3cret", "n": "1"},
        http_request_body={"password": "s3cret"},
    )
    version = version_of(api, request_id)
    seen = origin.requests("/f")[0]
    assert seen.body == b'{"password": "s3cret"}'
    assert "s3cret" in seen.query
    texts = [json.dumps(version), api.get(f"/v1/request/{request_id}").text, api.get("/v1/request/").text]
    assert not any("s3cret" in text for text in texts)
    assert "shown" in texts[1]


def test_requests_are_listed_by_group_and_page(api: httpx.Client, origin: Origin) -> None:
    """The oldest first; of one group, or of one URL."""
    origin.serve("/f", Resource(b"content"))
    urls = [origin.url(f"/f?{n}") for n in range(5)]
    ids = [order(api, url, group_name="pages") for url in urls]
    other = order(api, urls[0], group_name="others")

    def listed(**query: Any) -> list[str]:
        return [found["id"] for found in api.get("/v1/request/", params=query).json()]

    assert listed(group_name="pages") == ids
    assert listed(group_name="pages", skip=1, limit=2) == ids[1:3]
    assert listed(group_name="none") == []
    assert listed(url=urls[0]) == [ids[0], other]
    assert ids[0] in listed(limit=1000)
    problem(api.get("/v1/request/", params={"limit": 0}), 422, "value_invalid")
    problem(api.get("/v1/request/", params={"skip": -1}), 422, "value_invalid")


def test_what_is_not_known_is_not_found(api: httpx.Client, origin: Origin) -> None:
    """404 that names what is missing: the path, the Request, the version."""
    origin.serve("/f", Resource(b"content"))
    known, unknown = order(api, origin.url("/f")), "0" * 32
    for method, path in (
        ("GET", ""), ("DELETE", ""), ("GET", "/status/1.5"), ("GET", "/cache-config"), ("POST", "/refresh"),
        ("GET", "/response"), ("GET", "/response/latest"), ("GET", "/response/t/tag"), ("GET", "/response/v/x"),
        ("DELETE", "/response/v/x"),
    ):  # fmt: skip
        problem(api.request(method, f"/v1/request/{unknown}{path}"), 404, "request_unknown")
    for path, body in (
        ("/fetch", {}), ("/cache-config", NEVER), ("/response/v/x/pin", {"value": True}),
        ("/response/v/x/tag", {"value": "good"}),
    ):  # fmt: skip
        method = "POST" if path == "/fetch" else "PUT"
        problem(api.request(method, f"/v1/request/{unknown}{path}", json=body), 404, "request_unknown")
    for version in ("x", "20260101T000000000000Z", "%00", "%FF"):
        problem(api.get(f"/v1/request/{known}/response/v/{version}"), 404, "version_unknown")
    for path in ("/v1", "/v2/request/", "/v1/request/a/b/c/d", "/favicon.ico"):
        problem(api.get(path), 404, "path_unknown")


def test_a_method_that_is_not_there_is_told_which_are(api: httpx.Client) -> None:
    """405 with all methods of the path in Allow (RFC 9110 section 15.5.6)."""
    refused = api.patch("/v1/request/")
    problem(refused, 405, "method_refused")
    assert refused.headers["allow"] == "GET, HEAD, PUT"
    assert api.request("OPTIONS", "/v1/request/abc").headers["allow"] == "DELETE, GET, HEAD"


def test_head_has_the_fields_and_no_body(api: httpx.Client) -> None:
    """HEAD answers as GET does, without the body (RFC 9110 section 9.3.2)."""
    got, head = api.get("/v1/request/?limit=1"), api.head("/v1/request/?limit=1")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert api.head("/v1/request/nobody").content == b""
    assert api.head("/v1/request/nobody").status_code == 404


def test_the_time_of_an_ask_tells_when_it_has_arrived(api: httpx.Client, origin: Origin) -> None:
    """200 once there is a version, whatever its status; 202 for an ask that has not been made; the number is the
    same to the last digit."""
    held = origin.serve("/f", Held(Resource(b"content")))
    ordered = api.put("/v1/request/", json={"url": origin.url("/f")}).json()
    request_id, asked_at = ordered["id"], ordered["request_timestamp"]
    held.arrived()
    reached = api.get(f"/v1/request/{request_id}/status/{asked_at!r}")
    assert (reached.status_code, reached.json()) == (200, {"status": "registered"})
    assert api.get(f"/v1/request/{request_id}/response/latest").json()["status"] in ("wait", "in_progress")
    later = api.get(f"/v1/request/{request_id}/status/{asked_at + 0.000001!r}")
    assert (later.status_code, later.json()) == (202, {"status": "not_registered"})
    held.release()
    for wrong in ("nan", "inf", "-1", "soon"):
        problem(api.get(f"/v1/request/{request_id}/status/{wrong}"), 422, "value_invalid")


def test_a_configuration_is_read_and_changed(api: httpx.Client, origin: Origin) -> None:
    """What is put is there, and followed from then on; what is left out has its default."""
    changing(origin)
    request_id = order(api, origin.url("/f"), cache_configuration=NEVER)
    first = version_of(api, request_id)
    path = f"/v1/request/{request_id}/cache-config"
    assert api.get(path).json()["recaching_strategy"] == {"strategy_name": "never"}
    wanted = {"recaching_strategy": {"strategy_name": "when_requested"}, "max_cached_unpinned_versions": 7}
    changed = api.put(path, content=json.dumps({"request_id": request_id, **wanted}).encode())
    assert changed.status_code == 200
    assert api.get(path).json() == changed.json() == {**wanted, "max_cached_pinned_versions": 10}
    assert version_of(api, request_id)["previous_version"] == first["version"]
    problem(api.put(path, json={"max_cached_unpinned_versions": 0}), 422, "value_invalid")
    problem(api.put(path, json={"recaching_strategy": {"strategy_name": "http2"}}), 422, "value_invalid")
    problem(api.put(path), 422, "value_invalid")


def test_a_refresh_fetches_whatever_the_strategy_says(api: httpx.Client, origin: Origin) -> None:
    """Also of what is fetched once; and after the fetch that runs already."""
    bodies = [b"three", b"two", b"one"]
    held = origin.serve("/f", Held(Resource(lambda _: bodies.pop(), etag=None)))
    request_id = order(api, origin.url("/f"), cache_configuration=NEVER)
    held.arrived()
    assert api.post(f"/v1/request/{request_id}/refresh").status_code == 202
    held.release()
    origin.wait_for(2, "/f")
    assert api.post(f"/v1/request/{request_id}/refresh").status_code == 202
    origin.wait_for(3, "/f")


def test_what_is_removed_is_gone_and_can_be_had_back(api: httpx.Client, origin: Origin, shared_server: Any) -> None:
    """A version, or all of them; `forebay rm --undo` undoes it."""
    changing(origin)
    request_id, first = always(api, origin)
    second = version_of(api, request_id)
    response = f"/v1/request/{request_id}/response"
    gone = api.delete(f"{response}/v/{second['version']}")
    assert [version["version"] for version in gone.json()["removed"]] == [second["version"]]
    assert datetime.fromisoformat(gone.json()["until_datetime_utc"]) > datetime.now(UTC) + timedelta(hours=23)
    problem(api.get(f"{response}/v/{second['version']}"), 404, "version_unknown")
    problem(api.delete(f"{response}/v/{second['version']}"), 404, "version_unknown")
    assert api.get(f"{response}/latest").json()["version"] == first["version"]
    assert [v["version"] for v in api.delete(f"/v1/request/{request_id}").json()["removed"]] == [first["version"]]
    assert api.get(f"{response}/latest").status_code == 204
    assert api.get(response).json() == []


# --- fetching ---------------------------------------------------------------------------------------------


def test_how_a_version_was_come_by_is_told(api: httpx.Client, origin: Origin) -> None:
    """Fetched, stored, unchanged; and stale with the reason when the origin fails."""
    origin.serve("/f", Resource(b"content"))
    request_id = order(api, origin.url("/f"))
    version = version_of(api, request_id)
    assert version["status"] == "ready"

    def how(**wishes: Any) -> str:
        answer = fetch(api, request_id, **wishes).json()
        assert answer["response"]["version"] == version["version"]
        return str(answer["how"])

    assert how() == "stored"
    assert how(refresh="always") == "unchanged"
    assert how(offline=True) == "stored"
    origin.serve("/f", Status(500))
    answer = fetch(api, request_id, refresh="always").json()
    assert (answer["how"], answer["error"]["code"]) == ("stale", "origin_status")
    assert answer["response"]["version"] == version["version"]
    assert api.get(f"/v1/request/{request_id}/response/latest").json()["status"] == "failed"


def test_a_failed_fetch_is_a_problem_when_nothing_is_stored(api: httpx.Client, origin: Origin) -> None:
    """With the origin's status or the gate's refusal in it; each ask tries again."""
    origin.serve("/f", Status(404))
    request_id = order(api, origin.url("/f"))
    found = problem(fetch(api, request_id), 502, "origin_status")
    assert "404" in found["detail"]
    tried = len(origin.requests("/f"))
    origin.serve("/f", Resource(b"content"))
    assert fetch(api, request_id).json()["how"] == "fetched"
    assert len(origin.requests("/f")) == tried + 1
    problem(fetch(api, order(api, "http://127.0.0.1:9/")), 504, "origin_unreachable")
    offline = order(api, origin.url("/other"))
    problem(fetch(api, offline, offline=True), 504, "not_stored")


def test_an_expected_hash_is_checked(api: httpx.Client, origin: Origin) -> None:
    """What has it is served; what has not is fetched once more, and is a mismatch then."""
    origin.serve("/f", Resource(b"content"))
    request_id = order(api, origin.url("/f"), cache_configuration=NEVER)
    version = version_of(api, request_id)
    assert version_of(api, request_id, expected_hash=f"sha256:{version['content_hash_hex']}") == version
    assert version_of(api, request_id, expected_hash="md5:9a0364b9e99bb480dd25e1f0284c8555") == version
    assert len(origin.requests("/f")) == 1
    for wrong in ("sha256:" + "0" * 64, "md5:" + "0" * 32):
        problem(fetch(api, request_id, expected_hash=wrong), 502, "hash_mismatch")
    assert len(origin.requests("/f")) == 3
    origin.serve("/f", Resource(b"other", etag='"v2"'))
    other = "sha256:" + hashlib.sha256(b"other").hexdigest()
    assert version_of(api, request_id, expected_hash=other)["version"] > version["version"]
    for text in ("sha256:12", "rot13:00", "what"):
        found = problem(fetch(api, request_id, expected_hash=text), 422, "value_invalid")
        assert found["field"] == "expected_hash"


def test_a_fetch_that_takes_long_tells_how_far_it_is(api: httpx.Client, origin: Origin) -> None:
    """202 with the progress; with its `asked_at` the same fetch is waited for, and no other is begun."""
    held = origin.serve("/f", Held(Resource(b"content", etag=None)))
    request_id = order(api, origin.url("/f"))
    held.arrived()
    under_way = api.post(f"/v1/request/{request_id}/fetch", json={"refresh": "always", "wait_sec": 0})
    assert under_way.status_code == 202
    found = under_way.json()
    assert found["progress"]["state"] in ("queued", "downloading")
    assert found["response"]["status"] in ("wait", "in_progress")
    held.release()
    again = {"refresh": "always", "asked_at": found["asked_at"]}
    assert fetch(api, request_id, **again).json()["response"]["version"] == found["response"]["version"]
    assert fetch(api, request_id, **again).json()["response"]["version"] == found["response"]["version"]
    assert len(origin.requests("/f")) == 1
    for wait in (-1, 31, "long"):
        problem(api.post(f"/v1/request/{request_id}/fetch", json={"wait_sec": wait}), 422, "value_invalid")
    problem(api.post(f"/v1/request/{request_id}/fetch", json={"refresh": "hourly"}), 422, "value_invalid")


# --- versions ---------------------------------------------------------------------------------------------


def test_versions_are_listed_the_newest_first(api: httpx.Client, origin: Origin) -> None:
    """All of them, by status, by tag, a page at a time; each with its neighbours."""
    bodies = [b"two", b"one", b"one", b"zero"]
    origin.serve("/f", Resource(lambda _: bodies.pop(), etag=None))
    request_id, first = always(api, origin)
    made = [first, version_of(api, request_id)]
    fetch(api, request_id)  # a duplicate of the second one
    made.append(version_of(api, request_id))
    response = f"/v1/request/{request_id}/response"

    def listed(**query: Any) -> list[tuple[str, str]]:
        return [(v["version"], v["status"]) for v in api.get(response, params=query).json()]

    every = listed()
    assert [status for _, status in every] == ["ready", "duplicate", "ready", "ready"]
    assert every == sorted(every, reverse=True)
    assert listed(status="ready") == [(v["version"], "ready") for v in reversed(made)]
    assert listed(skip=1, limit=2) == every[1:3]
    duplicate = api.get(f"{response}/latest", params={"status": "duplicate"}).json()
    assert duplicate["previous_version"] == made[1]["version"]
    assert duplicate["content_attributes"]["filename"] is not None
    first = api.get(f"{response}/v/{first['version']}").json()
    assert (first["previous_version"], first["next_version"]) == (None, made[1]["version"])
    problem(api.get(response, params={"status": "lost"}), 422, "value_invalid")
    problem(api.get(response, params={"tag": "?"}), 422, "value_invalid")


def test_a_version_that_nothing_came_of_stays_a_duplicate(api: httpx.Client, origin: Origin) -> None:
    """Whoever saw a version begin can ask for it when the origin has said that nothing changed."""
    held = origin.serve("/f", Held(Resource(b"content")))
    held.release()
    request_id = order(api, origin.url("/f"))
    stored = version_of(api, request_id)
    held.hold()
    api.post(f"/v1/request/{request_id}/refresh")
    held.arrived(2)
    begun = api.get(f"/v1/request/{request_id}/response/latest").json()
    assert begun["version"] > stored["version"]
    held.release()
    fetch(api, request_id, refresh="always")
    found = api.get(f"/v1/request/{request_id}/response/v/{begun['version']}").json()
    assert (found["status"], found["previous_version"]) == ("duplicate", stored["version"])
    assert found["download_stats"]["state"] == "finished"
    assert len(api.get(f"/v1/request/{request_id}/response").json()) == 1


def test_pins_hold_and_let_go(api: httpx.Client, origin: Origin) -> None:
    """For ever, for a time, or no more; `latest` and the list know."""
    changing(origin)
    request_id, first = always(api, origin)
    second = version_of(api, request_id)
    response = f"/v1/request/{request_id}/response"
    claim = {"request_id": None, "response_version": None, "value": True, "duration_sec": None}
    pinned = api.put(f"{response}/v/{first['version']}/pin", content=json.dumps(claim).encode()).json()
    assert (pinned["pinned"], pinned["pinned_until_utc"]) == (True, None)
    assert api.get(f"{response}/latest", params={"pinned": "True"}).json()["version"] == first["version"]
    assert api.get(f"{response}/latest", params={"pinned": False}).json()["version"] == second["version"]
    timed = api.put(f"{response}/v/{first['version']}/pin", json={"value": True, "duration_sec": 60}).json()
    assert timed["pinned_until_utc"] is not None
    let_go = api.put(f"{response}/v/{first['version']}/pin", json={"value": False}).json()
    assert (let_go["pinned"], let_go["pinned_until_utc"]) == (False, None)
    assert api.get(f"{response}/latest", params={"pinned": True}).status_code == 204
    for body in ({"value": True, "duration_sec": 0}, {"value": "maybe"}, {}, {"value": True, "for": "ever"}):
        problem(api.put(f"{response}/v/{first['version']}/pin", json=body), 422, "value_invalid")
    problem(api.put(f"{response}/v/x/pin", json={"value": True}), 404, "version_unknown")


def test_tags_name_versions(api: httpx.Client, origin: Origin) -> None:
    """2 to 64 of [A-Za-z0-9-_]; several versions may have one, the newest comes first."""
    changing(origin)
    request_id, first = always(api, origin)
    second = version_of(api, request_id)
    response = f"/v1/request/{request_id}/response"
    for version in (first, second):
        claim = {"response_version": version["version"], "value": "good", "delete": False}
        tagged = api.put(f"{response}/v/{version['version']}/tag", content=json.dumps(claim).encode())
        assert tagged.json()["tags"] == ["good"]
    assert [v["version"] for v in api.get(f"{response}/t/good").json()] == [second["version"], first["version"]]
    assert api.get(f"{response}/latest", params={"tag": "good"}).json()["version"] == second["version"]
    api.put(f"{response}/v/{second['version']}/tag", json={"value": "good", "delete": True})
    assert [v["version"] for v in api.get(response, params={"tag": "good"}).json()] == [first["version"]]
    assert api.get(f"{response}/t/other").json() == []
    for tag in ("g", "g" * 65, "no good", "good\n"):
        problem(api.put(f"{response}/v/{first['version']}/tag", json={"value": tag}), 422, "value_invalid")
    problem(api.get(f"{response}/t/x"), 422, "value_invalid")
    problem(api.put(f"{response}/v/x/tag", json={"value": "good"}), 404, "version_unknown")


def test_a_failed_version_is_seen_and_cannot_be_kept(api: httpx.Client, origin: Origin) -> None:
    """It is the latest of any status, with its reason; it can be neither pinned nor tagged."""
    origin.serve("/f", Status(500))
    request_id = order(api, origin.url("/f"))
    fetch(api, request_id)
    latest = api.get(f"/v1/request/{request_id}/response/latest").json()
    assert (latest["status"], latest["download_stats"]["state"]) == ("failed", "failed")
    assert latest["download_stats"]["error_code"] == "origin_status"
    assert api.get(f"/v1/request/{request_id}/response/latest?status=ready").status_code == 204
    path = f"/v1/request/{request_id}/response/v/{latest['version']}"
    problem(api.put(f"{path}/pin", json={"value": True}), 409, "state_invalid")
    problem(api.put(f"{path}/tag", json={"value": "good"}), 409, "state_invalid")


def test_a_version_under_way_shows_how_far_it_is_and_stays(api: httpx.Client, origin: Origin) -> None:
    """It cannot be removed while it is fetched."""
    held = origin.serve("/f", Held(Resource(b"content")))
    request_id = order(api, origin.url("/f"))
    held.arrived()
    version = api.get(f"/v1/request/{request_id}/response/latest").json()
    problem(api.delete(f"/v1/request/{request_id}/response/v/{version['version']}"), 409, "state_invalid")
    held.release()
    assert version_of(api, request_id)["version"] == version["version"]


def test_the_fetch_of_what_is_removed_is_given_up(api: httpx.Client, origin: Origin) -> None:
    """All of a Request is removed while a fetch of it runs: no version comes of that, and its connection is closed
    at the worker's next beat."""
    held = origin.serve("/f", Held(Resource(b"content")))
    request_id = order(api, origin.url("/f"))
    held.arrived()
    asked_at = api.put("/v1/request/", json={"url": origin.url("/f")}).json()["request_timestamp"]
    assert api.delete(f"/v1/request/{request_id}").json()["removed"] == []
    problem(api.get(f"/v1/request/{request_id}/status/{asked_at!r}"), 404, "version_unknown")
    held.left()
    held.release()
    assert api.get(f"/v1/request/{request_id}/response").json() == []
    assert version_of(api, request_id)["status"] == "ready"


# --- the document -----------------------------------------------------------------------------------------


def test_the_api_describes_itself(api: httpx.Client) -> None:
    """An OpenAPI document with every path and model, and a page of it that needs nothing from elsewhere."""
    document = api.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    assert {"/v1/request/", "/r/{url}", "/readyz"} <= set(document["paths"])
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:  # a chunk is answered in the format that it came in, errors too
        kind = "application/json" if operation["operationId"] == "post_chunk" else "application/problem+json"
        assert kind in operation["responses"]["422"]["content"], operation["operationId"]
    page = api.get("/", follow_redirects=True)
    assert page.url.path == "/docs"
    assert "/v1/request/{request_id}/refresh" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "<script" not in page.text
    assert "src=" not in page.text


def test_every_answer_forbids_to_guess_its_type(api: httpx.Client) -> None:
    """nosniff and no-store on answers and on problems alike."""
    for path in ("/v1/request/", "/v1/request/nobody", "/healthz", "/readyz", "/docs"):
        answer = api.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff", path
        assert answer.headers["cross-origin-resource-policy"] == "same-origin", path
    assert api.get("/v1/request/").headers["cache-control"] == "no-store"
