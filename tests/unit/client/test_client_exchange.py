"""Exchanges with a server, driven by hand: what is asked, and what is made of each answer."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from forebay.client import calls, fetching
from forebay.client.exchange import Answer, Call, Do, Flow, Wait
from forebay.client.fetching import Begun
from forebay.core.fields import Fields
from forebay.errors import (
    ForebayError,
    HashMismatch,
    OriginError,
    ServerAnswerInvalid,
    ServerUnreachable,
    StateError,
    UnknownVersion,
)
from forebay.models import ReCachingStrategy, RequestSpec
from forebay.reports import Fetched
from forebay.wishes import wishes

URL = "https://data.example.org/a"
JSON = Fields([("Content-Type", "application/json")])
PROBLEM = Fields([("Content-Type", "application/problem+json")])
VERSION = {
    "id": "r1",
    "request_id": "q1",
    "url": URL,
    "version": "20261121T082745123456Z",
    "status": "ready",
    "content_download_path": "request/q1/response/v/20261121T082745123456Z/content",
    "request_datetime_utc": "2026-11-21T08:27:45Z",
}
REQUEST = {
    "id": "q1",
    "url": URL,
    "first_request_datetime_utc": "2026-11-21T08:27:45Z",
    "latest_request_datetime_utc": "2026-11-21T08:27:45Z",
}
FETCHED = {"how": "stored", "response": VERSION}
REMOVED = {"removed": [], "until_datetime_utc": "2026-11-22T08:27:45Z"}
UNDER_WAY = {
    "progress": {
        "state": "downloading", "downloaded_bytes": 5, "total_bytes": 9, "attempt": 1, "reason": None,
    },
    "response": None,
    "asked_at": 17.25,
}  # fmt: skip


def answer(value: Any, status: int = 200, fields: Fields = JSON) -> Answer:
    return Answer(status, fields, json.dumps(value).encode())


def problem(code: str, detail: str, status: int, **more: Any) -> Answer:
    document = {"type": "about:blank", "title": "…", "status": status, "detail": detail, "code": code, **more}
    return answer(document, status, PROBLEM)


def play(flow: Flow[Any], answers: Iterable[Answer | ForebayError]) -> tuple[Any, list[Call], list[float]]:
    """What *flow* returns when the server gives *answers*; its calls, and its waits."""
    left, asked, waits = list(answers), list[Call](), list[float]()
    try:
        step = next(flow)
        while True:
            match step:
                case Call():
                    asked.append(step)
                    came = left.pop(0)
                    step = flow.throw(came) if isinstance(came, ForebayError) else flow.send(came)
                case Wait(seconds):
                    waits.append(seconds)
                    step = flow.send(None)
                case Do(work):
                    step = flow.send(work())
    except StopIteration as end:
        assert left == []
        return end.value, asked, waits


def fetch(*answers: Answer | ForebayError, until: str = "over", **how: Any) -> tuple[Any, list[Call], list[float]]:
    named = {name: how.pop(name, None) for name in ("sha256", "expected_hash", "refresh", "tag", "version")}
    wish = wishes(*named.values(), how.pop("offline", False))(how.pop("url", URL))
    flow: Flow[Any] = fetching.fetch(wish, **how) if until == "over" else fetching.begin(wish, **how)
    return play(flow, answers)


# --- fetching -------------------------------------------------------------------------------------------


def test_what_is_not_said_is_left_to_the_server() -> None:
    """A plain URL is asked for with nothing but itself: group and strategy may be the token's and the server's."""
    _, (call,), _ = fetch(answer({"how": "stored", "response": VERSION}))
    assert (call.method, call.path) == ("POST", "/v1/fetch")
    assert call.body == {"request": {"url": URL}, "offline": False, "wait_sec": 10.0, "until": "over"}


def test_what_is_said_is_sent() -> None:
    """Strategies go whole, not as the short texts that name only some of them."""
    spec = RequestSpec(url=URL, http_header_fields={"X-A": "b"}, group_name="default")
    strategy = ReCachingStrategy.cron(cron="0 6 * * *", run_at_start=False)
    _, (call,), _ = fetch(
        answer({"how": "stored", "response": VERSION}), url=spec, refresh=strategy, sha256="ab" * 32, offline=True
    )
    assert call.body is not None
    assert call.body["request"] == {"url": URL, "http_header_fields": {"X-A": "b"}, "group_name": "default"}
    assert call.body["refresh"] == {"strategy_name": "cron", "cron": "0 6 * * *", "run_at_start": False}
    assert call.body["expected_hash"] == "sha256:" + "ab" * 32
    assert call.body["offline"] is True


def test_a_body_is_not_in_the_repr_of_a_call() -> None:
    """It may hold a secret."""
    spec = RequestSpec(url=URL, http_header_fields={"Authorization": "Bearer hush"})
    _, (call,), _ = fetch(answer({"how": "stored", "response": VERSION}), url=spec)
    assert "hush" not in repr(call)


def test_a_fetch_that_takes_long_is_gone_on_with() -> None:
    """Each further round names the moment of the first, so that its end is what was waited for."""
    told = []
    fetched, asked, _ = fetch(
        answer(UNDER_WAY, 202), answer({"how": "fetched", "response": VERSION}), tell=told.append
    )
    assert fetched.how == "fetched"
    assert [call.body and call.body.get("asked_at") for call in asked] == [None, 17.25]
    assert [(p.state, p.downloaded_bytes, p.total_bytes) for p in told] == [("downloading", 5, 9)]


def test_a_bar_is_told_often_and_nobody_seldom() -> None:
    """With somebody to tell, the server keeps its answer back for a moment only; its silence is allowed for."""
    for tell, wait_s in ((None, 10.0), (lambda _: None, 0.2)):
        _, (call,), _ = fetch(answer({"how": "stored", "response": VERSION}), tell=tell)
        assert call.body is not None
        assert call.body["wait_sec"] == wait_s
        assert call.patience_s > wait_s


def test_a_stale_version_comes_with_its_reason() -> None:
    """The error of the origin is of the class that it had on the server."""
    failure = {"code": "origin_unreachable", "detail": "no route"}
    fetched, *_ = fetch(answer({"how": "stale", "response": VERSION, "error": failure}))
    assert isinstance(fetched.error, OriginError)
    assert (fetched.error.code, str(fetched.error)) == ("origin_unreachable", "no route")


def test_a_failure_is_a_value() -> None:
    """What the server refuses or cannot do is an answer like others; `fetch_many` goes on."""
    fetched, *_ = fetch(problem("hash_mismatch", "expected a, got b", 502, retryable=False))
    assert isinstance(fetched, Fetched)
    assert (fetched.response, fetched.how) == (None, "failed")
    assert isinstance(fetched.error, HashMismatch)


def test_begun_is_when_a_version_can_be_followed() -> None:
    """A 202 without one is waited on; what ended meanwhile is the answer."""
    growing = UNDER_WAY | {"response": VERSION | {"status": "in_progress"}}
    begun, asked, _ = fetch(answer(UNDER_WAY, 202), answer(growing, 202), until="begun")
    assert isinstance(begun, Begun)
    assert (begun.response.status, begun.asked_at) == ("in_progress", 17.25)
    assert asked[0].body is not None
    assert asked[0].body["until"] == "begun"
    ended, *_ = fetch(answer({"how": "stored", "response": VERSION}), until="begun")
    assert isinstance(ended, Fetched)


def test_a_server_that_was_never_there_is_not_waited_for() -> None:
    """The first call fails at once, so that a fallback is quick."""
    with pytest.raises(ServerUnreachable):
        fetch(ServerUnreachable(reason="connection refused"))


def test_a_server_that_starts_anew_is_waited_for() -> None:
    """Once it has answered, it is tried again with growing waits; and given up after about ten seconds."""
    gone = ServerUnreachable(reason="connection refused")
    ended = answer({"how": "fetched", "response": VERSION})
    fetched, asked, waits = fetch(answer(UNDER_WAY, 202), gone, gone, ended)
    assert fetched.how == "fetched"
    assert asked[-1].body is not None
    assert asked[-1].body["asked_at"] == 17.25
    assert waits == sorted(waits)
    with pytest.raises(ServerUnreachable):
        fetch(answer(UNDER_WAY, 202), *[gone] * fetching.AGAIN.max_attempts)


# --- other calls ----------------------------------------------------------------------------------------


def test_a_url_is_found_without_being_logged() -> None:
    """It goes in a body: paths and queries are logged, and it may hold a secret."""
    found, (call,), _ = play(calls.request(URL), [answer(REQUEST)])
    assert found.id == "q1"
    assert (call.path, call.query, call.body) == ("/v1/find", (), {"name": URL})


@pytest.mark.parametrize(
    ("flow", "answers", "again"),
    [
        (lambda: calls.request(URL), [answer(REQUEST)], [True]),
        (lambda: fetching.fetch(wishes(None, None, None, None, None, False)(URL)), [answer(FETCHED)], [True]),
        (lambda: calls.undelete(URL, version=None), [answer(REQUEST), answer([])], [True, False]),
        (lambda: calls.delete(URL, version="v"), [answer(REQUEST), answer(REMOVED)], [True, False]),
    ],
    ids=["find", "fetch", "undelete", "delete"],
)
def test_what_changes_something_is_not_sent_again(
    flow: Callable[[], Flow[Any]], answers: list[Answer], again: list[bool]
) -> None:
    """When its answer is lost, it may have been done: the second answer would deny it. What only asks is sent again."""
    _, asked, _ = play(flow(), answers)
    assert [call.may_be_sent_again for call in asked] == again


def test_names_are_no_part_of_a_path_but_percent_encoded() -> None:
    """A version with a slash leads to no other endpoint."""
    flow = calls.find(URL, version="../../x?y", tag=None)
    _, (_, call), _ = play(flow, [answer(REQUEST), answer(VERSION)])
    assert call.path == "/v1/request/q1/response/v/..%2F..%2Fx%3Fy"


def test_lists_come_page_by_page() -> None:
    """A full page is followed by the next, until one is not full."""
    pages = [answer([REQUEST] * 1000), answer([REQUEST] * 3)]
    found, asked, _ = play(calls.requests(), pages)
    assert len(found) == 1003
    assert [dict(call.query)["skip"] for call in asked] == ["0", "1000"]


def test_no_version_yet_is_none() -> None:
    """204: `latest` is None, and `find` says what there is not."""
    found, *_ = play(calls.latest(URL), [answer(REQUEST), Answer(204, Fields())])
    assert found is None
    for flow in (calls.find(URL, version=None, tag=None), calls.find(URL, version=None, tag="ab")):
        with pytest.raises(UnknownVersion):
            play(flow, [answer(REQUEST), Answer(204, Fields())])


def test_a_duplicate_is_tagged_as_the_version_that_it_equals() -> None:
    """As in a folder: the name goes to the one that stays."""
    duplicate = VERSION | {"status": "duplicate", "version": "v2", "previous_version": VERSION["version"]}
    flow = calls.tag(URL, "ab", version="v2", remove=False)
    _, asked, _ = play(
        flow, [answer(REQUEST), answer(duplicate), answer(REQUEST), answer(VERSION), answer(VERSION)]
    )
    assert asked[-1].method == "PUT"
    assert asked[-1].path == f"/v1/request/q1/response/v/{VERSION['version']}/tag"
    assert asked[-1].body == {"value": "ab", "delete": False}


def test_what_has_no_content_is_not_pinned() -> None:
    """Nothing is sent for a failed version."""
    flow = calls.pin(URL, version="v2", value=True, duration_sec=None)
    with pytest.raises(StateError, match="failed"):
        play(flow, [answer(REQUEST), answer(VERSION | {"status": "failed"})])


def test_what_is_not_configured_stays() -> None:
    """The whole configuration is sent, as it was but for what is given."""
    kept = {"recaching_strategy": {"strategy_name": "age", "seconds": 5}, "max_cached_unpinned_versions": 7}
    flow = calls.configure(URL, refresh="never", unpinned=None, pinned=3)
    _, asked, _ = play(flow, [answer(REQUEST | {"cache_configuration": kept}), answer({})])
    assert asked[1].body == {
        "recaching_strategy": {"strategy_name": "never"},
        "max_cached_unpinned_versions": 7,
        "max_cached_pinned_versions": 3,
    }


def test_verification_is_put_together() -> None:
    """Part after part, each from where the one before ended; told in bytes."""
    rot = {"sha256": "ab" * 32, "found": "gone", "responses": [VERSION]}
    first = {"report": {"checked": 2, "checked_bytes": 10, "rotten": [rot]}, "next": "ab" * 32, "total_bytes": 15}
    second = {"report": {"checked": 1, "checked_bytes": 5, "rotten": []}, "next": None, "total_bytes": 15}
    told: list[tuple[int, int]] = []
    report, asked, _ = play(
        calls.verify(progress=lambda done, total: told.append((done, total))), [answer(first), answer(second)]
    )
    assert (report.checked, report.checked_bytes) == (3, 15)
    assert report.rotten[0].responses[0].version == VERSION["version"]
    assert told == [(10, 15), (15, 15)]
    assert [call.body and call.body.get("after") for call in asked] == [None, "ab" * 32]


# --- answers of all kinds -------------------------------------------------------------------------------


def test_what_a_newer_server_adds_is_left_out() -> None:
    """Fields that this Forebay does not know are no error, at any depth."""
    newer = VERSION | {"shiny": 1, "content_attributes": {"sha256": "ab" * 32, "blake3": "x"}}
    found, *_ = play(calls.find(URL, version="v", tag=None), [answer(REQUEST | {"shiny": {}}), answer(newer)])
    assert found.content_attributes.sha256 == "ab" * 32


@pytest.mark.parametrize(
    ("came", "kind", "says"),
    [
        (Answer(502, Fields([("Content-Type", "text/html")]), b"<h1>"), ServerUnreachable, "proxy"),
        (Answer(503, Fields(), b""), ServerUnreachable, "503"),
        (Answer(504, Fields(), b""), ServerUnreachable, "504"),
        (Answer(404, Fields([("Content-Type", "text/html")]), b"<h1>"), ServerAnswerInvalid, "404"),
        (Answer(200, Fields(), b"<html>"), ServerAnswerInvalid, "no JSON"),
        (answer([]), ServerAnswerInvalid, "no Request"),
        (answer({"id": 7}), ServerAnswerInvalid, "no Request"),
        (
            Answer(302, Fields([("Location", "https://u:hush@b.example/?token=hush")])),
            ServerAnswerInvalid,
            "redirects to",
        ),
        (Answer(200, JSON, b"{", cut="it broke"), ServerUnreachable, "it broke"),
        (problem("catalog_too_new", "upgrade", 503), ForebayError, "upgrade"),
    ],
    ids=lambda value: value.status if isinstance(value, Answer) else None,
)
def test_what_is_no_answer_of_ours(came: Answer, kind: type[ForebayError], says: str) -> None:
    """A proxy's 502 to 504 means that the server is out of reach; a problem document is the server's own; what
    else is not understood says so, and shows no secret."""
    with pytest.raises(kind, match=says) as caught:
        play(calls.request(URL), [came])
    assert "hush" not in str(caught.value)
    if says == "upgrade":
        assert not isinstance(caught.value, ServerUnreachable)


@pytest.mark.parametrize(
    "flow",
    [
        lambda: calls.tag(URL, "!", version=None, remove=False),
        lambda: calls.pin(URL, version=None, value=True, duration_sec=-1),
        lambda: calls.configure(URL, refresh="sometimes", unpinned=None, pinned=None),
        lambda: calls.find(URL, version=None, tag="!"),
    ],
)
def test_what_breaks_a_rule_is_not_sent(flow: Callable[[], Flow[Any]]) -> None:
    """The rules of values are the same here, and cost no round."""
    with pytest.raises(ForebayError) as caught:
        play(flow(), [])
    assert caught.value.code == "value_invalid"
