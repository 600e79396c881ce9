"""The public client DZDBuffy 0.7.3 as users have it, in an interpreter of its own, against a real `forebay serve`.

Its code is pydantic 1, so it cannot share ours. `FOREBAY_BUFFY_PYTHON` names an interpreter that has it; without
that, a virtual environment is made from `dzdbuffy.lock` and kept in pytest's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from environments import python_with
from origin import Coded, Held, Origin, Resource, Status, blob

Said = list[dict[str, Any]]

# What every script finds, beside `ask` and `say`.
_PRELUDE = """
    import hashlib
    from pathlib import Path
    from buffy.buffypyclient import BuffyPyClient, ReCachingStrategy, RequestCacheConfiguration
    from buffy.buffypyclient.buffypyclient import BuffyCacheEmptyError
    from requests import HTTPError
    from requests.auth import HTTPBasicAuth

    url = ask.get("url")

    def client(**options):
        return BuffyPyClient(url=ask["server"], local_download_fallback=False, **options)

    def content(req):
        return b"".join(req.download_response_content())

    def order(cache_configuration=None, **wishes):
        req = client().create_request(url, hold_request_order=True, cache_configuration=cache_configuration)
        req.order(**wishes)
        return req

    def always(keep=10):
        strategy = ReCachingStrategy.when_requested()
        return RequestCacheConfiguration(recaching_strategy=strategy, max_cached_unpinned_versions=keep)

    def never(keep=10):
        strategy = ReCachingStrategy.never()
        return RequestCacheConfiguration(recaching_strategy=strategy, max_cached_unpinned_versions=keep)

    def heard():
        return json.loads(sys.stdin.readline())
"""


@pytest.fixture(scope="session")
def buffy_python(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has the client. Skips, and says why, when there is none to be had."""
    return python_with(
        "dzdbuffy",
        probe="import buffy.buffypyclient",
        variable="FOREBAY_BUFFY_PYTHON",
        pytestconfig=pytestconfig,
        tmp=tmp_path_factory.mktemp,
    )


@pytest.fixture
def start(buffy_python: str, spawn: Callable[..., Any]) -> Callable[..., Any]:
    """``start(script, server=url, **ask)``: a `Child` that runs *script* where the client is."""
    # Proxies and ~/.netrc are the user's; requests would look for them.
    env = {"NO_PROXY": "*", "NETRC": os.devnull}

    def begin(script: str, **ask: Any) -> Any:
        whole = textwrap.dedent(_PRELUDE) + textwrap.dedent(script)
        return spawn(whole, python=buffy_python, env=env, **ask)

    return begin


@pytest.fixture
def run(start: Callable[..., Any]) -> Callable[..., Said]:
    """``run(script, server=url, **ask)``: what *script* says until its good end."""
    return lambda script, **ask: start(script, **ask).result()


@pytest.fixture(scope="module")
def server(serve_shared: Callable[..., Any]) -> str:
    """The URL of a server with two API processes: one call's effect must be there for the next one's. What a test
    asks it for is at an origin of its own."""
    return str(serve_shared("--workers", "2", env={"FOREBAY_MAX_ATTEMPTS": "2"}).url)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _add_token(served: Any, name: str, scopes: str) -> str:
    """The secret of a new token of *served*."""
    argv = [sys.executable, "-m", "forebay", "token", "add", name, "--scope", scopes, "--data", str(served.folder)]
    made = subprocess.run([*argv, "--json"], capture_output=True, text=True, check=True)
    return str(json.loads(made.stdout)["secret"])


def _in_turn(*bodies: bytes) -> Resource:
    """A resource without validators; each GET gets the next of *bodies*, the last one for ever."""
    left = list(bodies)
    return Resource(lambda seen: left.pop(0) if len(left) > 1 else left[0], etag=None)


# --- content ------------------------------------------------------------------------------------------------


def test_content_arrives_in_pieces(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """`create_request` and `download_response_content`: every byte, from one GET at the origin."""
    body = blob(1_300_000)
    origin.serve("/big.bin", Resource(body, media_type="application/octet-stream"))
    script = """
        req = client().create_request(url)
        pieces = list(req.download_response_content(chunk_size=100_000))
        (response,) = req.list_cached_response_versions()
        say(sha256=hashlib.sha256(b"".join(pieces)).hexdigest(), largest=max(map(len, pieces)),
            hash=response.content_hash_hex, same=response.version == req.response_version,
            size=response.content_attributes.content_size_bytes, state=response.download_stats.state,
            media_type=response.content_attributes.media_type, etag=response.content_attributes.etag,
            downloaded=response.download_stats.downloaded_bytes, before=req.previous_version)
    """
    (said,) = run(script, server=server, url=origin.url("/big.bin"))
    assert said == {
        "sha256": _sha256(body),
        "largest": 100_000,
        "hash": hashlib.md5(body).hexdigest(),  # what this client asks for
        "same": True,
        "size": len(body),
        "state": "finished",
        "media_type": "application/octet-stream",
        "etag": '"v1"',
        "downloaded": len(body),
        "before": None,
    }
    assert len(origin.requests("/big.bin", "GET")) == 1


def test_content_goes_to_a_path_a_file_or_a_folder(
    run: Callable[..., Said], server: str, origin: Origin, tmp_path: Path
) -> None:
    """`download_response_content_to`: a text, a Path, an open file; in a folder under the content's own name."""
    origin.serve("/data/numbers.csv", Resource(b"a,b\n1,2\n", media_type="text/csv"))
    script = """
        folder = Path(ask["folder"])
        one = client().create_request(url).download_response_content_to(str(folder / "one"))
        two = client().create_request(url).download_response_content_to(target=folder / "two")
        with open(folder / "three", "wb") as file:
            client().create_request(url).download_response_content_to(file)
        own = client().create_request(url).download_response_content_to(dir=folder)
        say(paths=[str(path) for path in (one, two, own)])
    """
    (said,) = run(script, server=server, url=origin.url("/data/numbers.csv"), folder=tmp_path)
    assert said["paths"] == [str(tmp_path / name) for name in ("one", "two", "numbers.csv")]
    for name in ("one", "two", "three", "numbers.csv"):
        assert (tmp_path / name).read_bytes() == b"a,b\n1,2\n"


@pytest.mark.parametrize(
    ("path", "fields", "media_type", "expected"),
    [
        pytest.param("/a/b.json", [], "application/json", "b.json", id="the-end-of-the-url"),
        pytest.param(
            "/a", [("Content-Disposition", 'attachment; filename="c.csv"')], "text/csv", "c.csv", id="as-proposed"
        ),
        pytest.param("/", [], "text/csv", "download.csv", id="only-a-media-type"),
        pytest.param("/", [], None, "download", id="nothing"),
    ],
)
def test_every_content_has_a_filename(
    run: Callable[..., Said],
    server: str,
    origin: Origin,
    path: str,
    fields: list[tuple[str, str]],
    media_type: str | None,
    expected: str,
) -> None:
    """`get_filename` asks until there is one, so there must always be one."""
    origin.serve(path, Resource(b"x", fields=fields, media_type=media_type))
    script = "say(name=client().create_request(url).get_filename())"
    assert run(script, server=server, url=origin.url(path)) == [{"name": expected}]


def test_coded_and_empty_content(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """What the origin coded is decoded by the client; nothing at all is content too."""
    origin.serve("/coded", Coded(b"plain " * 1000))
    origin.serve("/empty", Resource(b""))
    script = "say(text=content(client().create_request(url)).decode())"
    assert run(script, server=server, url=origin.url("/coded")) == [{"text": "plain " * 1000}]
    assert run(script, server=server, url=origin.url("/empty")) == [{"text": ""}]


def test_what_is_sent_to_the_origin(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """Method, body, parameters and fields; the answer that comes back can be read whatever they hold."""
    origin.serve("/api", Resource(lambda seen: seen.body or b"no body"))
    script = """
        fields = {"X-Wish": "soon", "Authorization": "Bearer s3cret"}
        params = {"page": 2, "q": ["a", "b c"], "none": None, "all": True}
        req = client().create_request(
            url, http_method="post", http_request_body={"name": "J\\u00fcrgen", "n": 1}, http_query_params=params,
            http_header_fields=fields, info_description="A wish", info_link="https://example.org/wish")
        say(text=content(req).decode())
    """
    (said,) = run(script, server=server, url=origin.url("/api"))
    assert said["text"] == '{"name": "Jürgen", "n": 1}'
    (seen,) = origin.requests("/api")
    sent = [("page", "2"), ("q", "a"), ("q", "b c"), ("all", "True")]
    assert (seen.method, parse_qsl(seen.query)) == ("POST", sent)
    assert (seen.fields["x-wish"], seen.fields["authorization"]) == ("soon", "Bearer s3cret")


def test_groups_do_not_share(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """Two groups are two Requests, and one group is one."""
    resource = origin.serve("/shared", Resource(b"x"))
    script = """
        for group in (None, "one", "two", "two", None):
            content(client(group_name=group).create_request(url))
    """
    run(script, server=server, url=origin.url("/shared"))
    assert resource.gets == 3


# --- choosing a version -------------------------------------------------------------------------------------


def test_what_an_order_prefers_or_forces(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """Every option of `order`, alone and together, with what is there and with what is not."""
    origin.serve("/f", _in_turn(b"one", b"two", b"three"))
    script = """
        versions = {}
        for name in ("one", "two", "three"):
            req = order(always(), prefer_cached=False)
            assert content(req).decode() == name, name
            versions[f"${name}"] = req.response_version
        req.cache_configuration = never()
        req.pin(response_version=versions["$one"])
        req.tag("seen", response_version=versions["$two"])
        for wishes in ask["orders"]:
            wishes = {name: versions.get(wish, wish) for name, wish in wishes.items()}
            try:
                say(got=content(order(**wishes)).decode())
            except ValueError as error:
                say(got=type(error).__name__)
        by_hand = order()
        by_hand.prefere_version = versions["$one"]  # what `order(prefer_version=...)` forgets to set
        say(got=content(by_hand).decode())
        found = req.list_cached_response_versions()
        say(listed=[(f"${content(order(force_version=it.version)).decode()}", it.version) for it in found],
            known=versions, chain=[(it.previous_version, it.next_version) for it in found])
    """
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "three"),
        ({"prefer_cached": True}, "three"),
        ({"prefer_cached": False}, "three"),
        ({"prefer_pinned": True}, "one"),
        ({"prefer_pinned": True, "prefer_cached": False}, "one"),
        ({"prefer_tag": "seen"}, "two"),
        ({"prefer_tag": "unseen"}, "three"),
        ({"prefer_tag": "seen", "prefer_pinned": True}, "two"),  # it lets go of `pinned` first
        ({"prefer_version": "$one"}, "three"),  # 0.7.3 never looks at it
        ({"force_pinned": True}, "one"),
        ({"force_tag": "seen"}, "two"),
        ({"force_tag": "unseen"}, "ValueError"),
        ({"force_tag": "seen", "force_pinned": True}, "ValueError"),
        ({"force_version": "$two"}, "two"),
        ({"force_version": "$one", "prefer_tag": "seen"}, "one"),
        ({"force_version": "20000101T000000000000Z"}, "ValueError"),
    ]
    said = run(script, server=server, url=origin.url("/f"), orders=[wishes for wishes, _ in cases])
    got = [line["got"] for line in said[:-2]]
    assert list(zip([wishes for wishes, _ in cases], got, strict=True)) == cases
    assert said[-2] == {"got": "one"}
    one, two, three = (said[-1]["known"][name] for name in ("$one", "$two", "$three"))
    assert said[-1]["listed"] == [["$three", three], ["$two", two], ["$one", one]]
    assert said[-1]["chain"] == [[two, None], [one, three], [None, two]]


def test_a_stored_version_is_preferred_to_waiting(start: Callable[..., Any], server: str, origin: Origin) -> None:
    """While a newer one is on its way, `prefer_cached` has the older at once; without it, the order waits."""
    held = Held(Resource(b"new", etag=None))
    origin.serve("/f", Resource(b"old", etag=None))
    script = """
        say(text=content(order(always())).decode())
        heard()
        say(text=content(order()).decode())
        waiting = order(prefer_cached=False)
        say(statuses=[it.status for it in waiting.list_cached_response_versions(status=None)])
        say(text=content(waiting).decode())
    """
    child = start(script, server=server, url=origin.url("/f"))
    child.wait_for(lambda said: len(said) == 1)
    origin.serve("/f", held)
    child.tell()
    said = child.wait_for(lambda said: len(said) == 3)
    assert said[:2] == [{"text": "old"}, {"text": "old"}]
    assert said[2]["statuses"] in (["in_progress", "ready"], ["wait", "ready"])
    held.release()
    assert child.result()[3:] == [{"text": "new"}]
    assert held.arrivals == 1


def test_a_duplicate_names_what_it_repeats(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """A fetch that found nothing new leads to the version that has the content, also when the latest is asked
    for."""
    origin.serve("/same", Resource(b"same", etag=None))
    script = """
        first = order(always())
        say(text=content(first).decode(), version=first.response_version)
        second = order(prefer_cached=False)
        say(text=content(second).decode())
        third = order(prefer_cached=False)
        say(text=content(third).decode())
        (again, once) = third.list_cached_response_versions(status="duplicate")
        say(repeats=[again.previous_version, once.previous_version], newer=again.version > once.version,
            name=once.content_attributes.filename, state=once.download_stats.state)
        say(ready=[it.version for it in third.list_cached_response_versions()])
    """
    said = run(script, server=server, url=origin.url("/same"))
    version = said[0]["version"]
    assert said[1:3] == [{"text": "same"}, {"text": "same"}]
    assert said[3] == {"repeats": [version, version], "newer": True, "name": "same", "state": "finished"}
    assert said[4] == {"ready": [version]}


def test_a_version_that_turned_out_to_be_nothing_new(
    start: Callable[..., Any], server: str, origin: Origin
) -> None:
    """It was begun and seen, then the origin said 304: whoever waits for it gets what it would have repeated."""
    resource = origin.serve("/f", Resource(b"same"))
    held = Held(resource)
    script = """
        import requests
        first = order()
        say(text=content(first).decode(), version=first.response_version)
        heard()
        requests.post(f"{ask['server']}/v1/request/{first._api_request.id}/refresh").raise_for_status()
        waiting = order(prefer_cached=False)
        waiting._get_download_stats()  # each wait begins so: it holds the version that it saw from now on
        say(status=waiting._api_response.status)
        say(text=content(waiting).decode())
        say(ready=[it.version for it in waiting.list_cached_response_versions()])
    """
    child = start(script, server=server, url=origin.url("/f"))
    said = child.wait_for(lambda said: len(said) == 1)
    origin.serve("/f", held)
    child.tell()
    said = child.wait_for(lambda said: len(said) == 2)
    assert said[1]["status"] in ("in_progress", "wait")
    held.release()
    assert child.result()[2:] == [{"text": "same"}, {"ready": [said[0]["version"]]}]
    assert resource.not_modified == 1


# --- pins, tags, configuration ------------------------------------------------------------------------------


def test_pins_and_tags(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """`pin` for ever and for a while, `unpin`, `tag`, and taking a tag away; each is seen at once."""
    origin.serve("/f", Resource(b"x"))
    script = """
        req = client().create_request(url)
        content(req)
        def look(**filters):
            return [(it.pinned, it.is_pinned, it.pinned_until_utc is not None, it.tags)
                    for it in req.list_cached_response_versions(**filters)]
        def told(call, *args, **options):
            assert call(*args, **options) in (None, req.response_version)
            say(now=look())
        say(now=look())
        told(req.pin)
        told(req.pin, duration_sec=3600)
        told(req.unpin)
        told(req.tag, "works-for_me")
        told(req.tag, "b2")
        say(now=look(tag="b2"))
        say(now=look(tag="other"))
        told(req.tag, "b2", remove_tag=True)
    """
    said = [line["now"] for line in run(script, server=server, url=origin.url("/f"))]
    assert said == [
        [[False, False, False, []]],
        [[True, True, False, []]],
        [[True, True, True, []]],
        [[False, False, False, []]],
        [[False, False, False, ["works-for_me"]]],
        [[False, False, False, ["b2", "works-for_me"]]],
        [[False, False, False, ["b2", "works-for_me"]]],
        [],
        [[False, False, False, ["works-for_me"]]],
    ]


def test_a_pinned_version_survives_newer_ones(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """Of the unpinned ones only as many are kept as the configuration says."""
    origin.serve("/f", _in_turn(b"one", b"two", b"three", b"four"))
    script = """
        for name in ("one", "two", "three", "four"):
            req = order(always(keep=1), prefer_cached=False)
            assert content(req).decode() == name, name
            if name == "one":
                req.pin()
        kept = req.list_cached_response_versions()
        say(kept=[content(order(force_version=it.version)).decode() for it in kept])
    """
    assert run(script, server=server, url=origin.url("/f")) == [{"kept": ["four", "one"]}]


def test_cache_configurations(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """All five strategies are stored as given: with the request, later, and by another ask of the same Request."""
    origin.serve("/f", Resource(b"x"))
    script = """
        S, C = ReCachingStrategy, RequestCacheConfiguration
        configurations = [
            C(recaching_strategy=S.never()),
            C(recaching_strategy=S.age(seconds=5)),
            C(recaching_strategy=S.cron(cron="0 3 * * *", run_at_start=False), max_cached_unpinned_versions=7),
            C(recaching_strategy=S.when_requested(), max_cached_pinned_versions=3),
            C(recaching_strategy=S.when_remote_changed(check_interval_sec=60, fallback_max_age_sec=120)),
        ]
        def known(group):
            found = client(group_name=group).create_request(url).cache_configuration.dict()
            return {key: value for key, value in found.items() if key != "request_id"}
        def plain(configuration):
            return {key: value for key, value in configuration.dict().items() if key != "request_id"}
        req = client(group_name="changing").create_request(url)
        say(name="default", same=known("changing") == plain(C()))
        for number, configuration in enumerate(configurations):
            strategy = configuration.recaching_strategy.strategy_name
            client(group_name=f"g{number}").create_request(url, cache_configuration=configuration)
            say(name=f"{strategy} with the request", same=known(f"g{number}") == plain(configuration))
            req.cache_configuration = configuration
            say(name=f"{strategy} later", same=known("changing") == plain(configuration))
            client(group_name="asked").create_request(url, cache_configuration=configuration)
            say(name=f"{strategy} by an ask", same=known("asked") == plain(configuration))
    """
    said = run(script, server=server, url=origin.url("/f"))
    assert len(said) == 16
    assert [line["name"] for line in said if not line["same"]] == []


# --- bad days -----------------------------------------------------------------------------------------------


def test_an_origin_that_fails(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """The failed version is the latest, with its reason; the client says that nothing is stored."""
    origin.serve("/broken", Status(410, b"gone"))
    script = """
        try:
            content(client().create_request(url))
        except BuffyCacheEmptyError as error:
            say(error=str(error))
        req = client().create_request(url, hold_request_order=True)
        try:
            req.order()
            req.get_filename()
        except BuffyCacheEmptyError:
            say(error="again")
        (failed, *more) = req.list_cached_response_versions(status=None)
        say(status=failed.status, state=failed.download_stats.state, reason=failed.download_stats.error,
            more=[it.status for it in more], ready=len(req.list_cached_response_versions()))
    """
    said = run(script, server=server, url=origin.url("/broken"))
    assert "failed to download" in said[0]["error"]
    assert said[1] == {"error": "again"}
    assert "410" in said[2].pop("reason")
    assert said[2]["status"] == said[2]["state"] == "failed"
    assert set(said[2]["more"]) <= {"failed"}
    assert said[2]["ready"] == 0


def test_an_origin_that_fails_later(start: Callable[..., Any], server: str, origin: Origin) -> None:
    """What is stored is still served, unless the order insists on the latest; and a good day brings a new one."""
    origin.serve("/f", Resource(b"good", etag=None))
    script = """
        say(text=content(order(always())).decode())
        heard()
        say(text=content(order()).decode())
        try:
            content(order(prefer_cached=False))
        except BuffyCacheEmptyError:
            say(text="empty")
        heard()
        say(text=content(order(prefer_cached=False)).decode())
    """
    child = start(script, server=server, url=origin.url("/f"))
    child.wait_for(lambda said: len(said) == 1)
    origin.serve("/f", Status(404))
    child.tell()
    child.wait_for(lambda said: len(said) == 3)
    origin.serve("/f", Resource(b"better", etag=None))
    child.tell()
    assert [line["text"] for line in child.result()] == ["good", "good", "empty", "better"]


def test_a_request_that_is_refused(run: Callable[..., Said], server: str, origin: Origin) -> None:
    """What cannot be a Request is an HTTPError in the user's program, and nothing is asked of anybody."""
    script = """
        for wrong in ("ftp://example.org/x", "http://", "no url"):
            try:
                client().create_request(wrong)
            except HTTPError as error:
                say(status=error.response.status_code)
    """
    assert run(script, server=server) == [{"status": 422}] * 3


# --- tokens -------------------------------------------------------------------------------------------------


def test_a_token_as_password(run: Callable[..., Said], serve: Callable[..., Any], origin: Origin) -> None:
    """The token goes as the password of Basic, given apart or in the URL; it opens every call."""
    served = serve()
    token = _add_token(served, "buffy", "read,write")
    origin.serve("/f.txt", Resource(b"x"))
    script = """
        host = ask["server"].removeprefix("http://")
        ways = [
            BuffyPyClient(url=ask["server"], http_auth=HTTPBasicAuth("anyone", ask["token"])),
            BuffyPyClient(url=f"http://anyone:{ask['token']}@{host}"),
        ]
        for way in ways:
            req = way.create_request(url)
            text = content(req).decode()
            req.cache_configuration = never()
            req.pin()
            req.tag("mine")
            (it,) = req.list_cached_response_versions()
            say(text=text, name=req.get_filename(), pinned=it.pinned, tags=it.tags)
            req.unpin()
    """
    said = run(script, server=served.url, url=origin.url("/f.txt"), token=token)
    assert said == [{"text": "x", "name": "f.txt", "pinned": True, "tags": ["mine"]}] * 2


def test_no_token_or_a_wrong_one(run: Callable[..., Said], serve: Callable[..., Any], origin: Origin) -> None:
    """401 without one and with a wrong one, 403 for what its scopes do not hold; the origin hears of none."""
    served = serve()
    _add_token(served, "writer", "read,write")
    reader = _add_token(served, "reader", "read")
    resource = origin.serve("/f", Resource(b"x"))
    script = """
        for auth in (None, HTTPBasicAuth("anyone", "wrong"), HTTPBasicAuth("anyone", ask["reader"])):
            try:
                client(http_auth=auth).create_request(url)
            except HTTPError as error:
                say(status=error.response.status_code)
    """
    said = run(script, server=served.url, url=origin.url("/f"), reader=reader)
    assert said == [{"status": 401}, {"status": 401}, {"status": 403}]
    assert resource.gets == 0
