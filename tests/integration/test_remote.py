"""The API of a folder, from a real server: every call, what fails, who may, and what is done without it."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest

import forebay
from conftest import Served
from forebay import (
    Fetched,
    Forebay,
    HashMismatch,
    OriginError,
    ReCachingStrategy,
    RemoteForebay,
    RequestError,
    RequestSpec,
    Response,
    ServerUnreachable,
    StateError,
)
from forebay.errors import (
    AccessDenied,
    InvalidUrl,
    InvalidValue,
    NotStored,
    ScopeMissing,
    ServerAnswerInvalid,
    TokenInvalid,
    TokenMissing,
    UnknownRequest,
    UnknownVersion,
)
from origin import Drip, Held, Origin, Redirect, Resource, Status, blob

Open = Callable[..., RemoteForebay]
SECRET = "fby_this-is-no-token-of-anybody"


@pytest.fixture(scope="module")
def served(serve_shared: Callable[..., Served]) -> Served:
    """For tests that look at what they have asked for, and at nothing else that a server has."""
    return serve_shared(env={"FOREBAY_MAX_ATTEMPTS": "2"})


@pytest.fixture
def served_alone(serve: Callable[..., Served]) -> Served:
    """For tests that count all that a server has, or add a token."""
    return serve()


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """``connect(url, **settings)``: a `RemoteForebay` with a cache of the test's; closed when it ends."""
    for name in ("FOREBAY_SERVER", "FOREBAY_TOKEN", "FOREBAY_FALLBACK", "FOREBAY_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FOREBAY_BACKOFF_BASE_S", "0.01")
    opened: list[RemoteForebay] = []

    def make(url: str, **settings: Any) -> RemoteForebay:
        bay = forebay.open(url, **{"cache": tmp_path / "cache", **settings})
        assert isinstance(bay, RemoteForebay)
        opened.append(bay)
        return bay

    yield make
    for bay in opened:
        bay.close()


@pytest.fixture
def remote(served: Served, connect: Open) -> RemoteForebay:
    return connect(served.url)


@pytest.fixture
def remote_alone(served_alone: Served, connect: Open) -> RemoteForebay:
    return connect(served_alone.url)


def nothing_listens() -> str:
    """A URL on loopback where nobody is."""
    with Origin() as gone:
        return gone.url("")


# --- fetching -------------------------------------------------------------------------------------------


def test_fetched_once_and_kept(remote: RemoteForebay, origin: Origin) -> None:
    """A cold URL is fetched by the server; the second time it is stored there, and the origin is not asked."""
    resource = origin.serve("/a.txt", Resource(b"hello"))
    first = remote.fetch(origin.url("/a.txt"))
    assert (first.status, first.content_attributes.content_size_bytes) == ("ready", 5)
    (again,) = remote.fetch_many([origin.url("/a.txt")])
    assert (again.how, again.error) == ("stored", None)
    assert again.response is not None
    assert again.response.version == first.version
    assert resource.gets == 1


def test_how_fresh(remote: RemoteForebay, origin: Origin) -> None:
    """`refresh` takes the texts and the strategies; the origin says that nothing changed, or has another."""
    resource = origin.serve("/a", Resource(b"one"))
    remote.fetch(origin.url("/a"))
    (unchanged,) = remote.fetch_many([origin.url("/a")], refresh="always")
    assert unchanged.how == "unchanged"
    resource.change(b"two", etag='"v2"')
    assert remote.fetch(origin.url("/a"), refresh=ReCachingStrategy.age(seconds=3600)).previous_version is None
    changed = remote.fetch(origin.url("/a"), refresh=ReCachingStrategy.when_requested())
    assert remote.path(changed).read_bytes() == b"two"


def test_a_request_with_everything(remote: RemoteForebay, origin: Origin) -> None:
    """Method, fields, parameters and body reach the origin; secrets come back to nobody."""
    origin.serve("/a", Resource(lambda seen: seen.body + seen.query.encode()))
    spec = RequestSpec(
        url=origin.url("/a"),
        http_method="post",
        http_header_fields={"Authorization": "Bearer hush", "X-Plain": "seen"},
        http_query_params={"b": ["1", "2"]},
        http_request_body="data",
        group_name="team",
    )
    response = remote.fetch(spec)
    assert remote.path(response).read_bytes() == b"datab=1&b=2"
    assert origin.requests("/a")[0].fields["authorization"] == "Bearer hush"
    (request,) = [request for request in remote.requests() if request.url == spec.url]
    assert request.group_name == "team"
    assert "hush" not in request.model_dump_json()
    assert remote.fetch(spec).version == response.version


def test_many_at_once(remote: RemoteForebay, origin: Origin) -> None:
    """Each answer comes when it is there, failures as values with what was asked; more than the crew takes."""
    for number in range(40):
        origin.serve(f"/{number}", Resource(b"%d" % number))
    origin.serve("/gone", Status(404))
    urls = [*(origin.url(f"/{number}") for number in range(40)), origin.url("/gone"), "ftp://no", origin.url("/0")]
    answers = {fetched.asked: fetched for fetched in remote.fetch_many(urls)}
    assert set(answers) == set(urls)
    failed = {str(asked): fetched.error for asked, fetched in answers.items() if fetched.how == "failed"}
    assert set(failed) == {origin.url("/gone"), "ftp://no"}
    assert isinstance(failed[origin.url("/gone")], OriginError)
    assert isinstance(failed["ftp://no"], InvalidUrl)


def test_a_caller_may_stop_early(remote: RemoteForebay, origin: Origin) -> None:
    """What was begun is left to the server, and the next call works."""
    held = origin.serve("/held", Held(Resource(b"late")))
    origin.serve("/a", Resource(b"a"))
    answers = remote.fetch_many([origin.url("/a"), origin.url("/held")])
    assert next(answers).response is not None
    held.arrived()
    answers.close()
    assert remote.fetch(origin.url("/a")).status == "ready"
    held.release()


def test_arguments_are_checked_at_once(remote: RemoteForebay) -> None:
    """Before anything is asked for, and not at the first answer."""
    with pytest.raises(InvalidValue):
        remote.fetch_many(["http://a.example"], sha256="short")
    with pytest.raises(InvalidUrl):
        remote.fetch("file:///etc/passwd")


@pytest.mark.parametrize("content", [False, True])
def test_progress_comes_from_the_server(remote: RemoteForebay, origin: Origin, content: bool) -> None:
    """It is told in the caller's thread, with bytes and total, while the origin still sends."""
    gate, threads, seen = Semaphore(1), set[int](), list[tuple[str, int, int | None]]()
    origin.serve("/slow", Drip(Resource(blob(300_000)), 100_000, gate))

    def progress(url: str, how_far: forebay.Progress) -> None:
        threads.add(threading.get_ident())
        seen.append((how_far.state, how_far.downloaded_bytes, how_far.total_bytes))
        if how_far.state == "downloading" and how_far.downloaded_bytes:
            gate.release(2)  # the rest comes when the beginning was seen

    (fetched,) = remote.fetch_many([origin.url("/slow")], progress=progress, content=content)
    assert fetched.response is not None
    assert threads == {threading.get_ident()}
    assert ("downloading", 300_000) in {(state, total) for state, _, total in seen}
    assert seen[-1][0] == "done"


def test_an_expected_hash(remote: RemoteForebay, origin: Origin) -> None:
    """What the origin has is compared on the server; both digests are in the error."""
    origin.serve("/a", Resource(b"hello"))
    with pytest.raises(HashMismatch, match="5d41402abc4b2a76b9719d911017c592"):
        remote.fetch(origin.url("/a"), expected_hash="md5:" + "0" * 32)
    good = remote.fetch(origin.url("/a"), expected_hash="md5:5d41402abc4b2a76b9719d911017c592")
    assert good.status == "ready"


def test_the_last_good_version_with_a_warning(
    remote: RemoteForebay, origin: Origin, caplog: pytest.LogCaptureFixture
) -> None:
    """When the origin fails, that version is used, and why is told with the code that the server gave."""
    origin.serve("/a", Resource(b"a"))
    first = remote.fetch(origin.url("/a"))
    origin.serve("/a", Status(500))
    (stale,) = remote.fetch_many([origin.url("/a")], refresh="always")
    assert (stale.how, stale.response and stale.response.version) == ("stale", first.version)
    assert isinstance(stale.error, OriginError)
    assert stale.error.code == "origin_status"
    with caplog.at_level(logging.WARNING, "forebay"):
        assert remote.fetch(origin.url("/a"), refresh="always").version == first.version
    assert f"using version {first.version}" in caplog.text


def test_offline(remote: RemoteForebay, origin: Origin) -> None:
    """Nothing is fetched, and what is not stored is not even registered."""
    origin.serve("/a", Resource(b"a"))
    with pytest.raises(NotStored):
        remote.fetch(origin.url("/a"), offline=True)
    assert origin.url("/a") not in [request.url for request in remote.requests()]
    remote.fetch(origin.url("/a"))
    assert remote.fetch(origin.url("/a"), offline=True).status == "ready"
    assert len(origin.requests("/a", "GET")) == 1


# --- versions -------------------------------------------------------------------------------------------


def test_versions_tags_and_pins(remote: RemoteForebay, origin: Origin) -> None:
    """Each call gives what the one of a folder gives."""
    url = origin.url("/a")
    resource = origin.serve("/a", Resource(b"one"))
    one = remote.fetch(url)
    resource.change(b"two", etag='"v2"')
    two = remote.fetch(url, refresh="always")
    assert [version.version for version in remote.versions(url)] == [two.version, one.version]
    latest = remote.latest(url)
    assert latest is not None
    assert latest.version == two.version
    assert remote.find(url, version=one.version).next_version == two.version
    assert remote.tag(url, "first", version=one.version).tags == ["first"]
    assert remote.find(url, tag="first").version == one.version
    assert remote.fetch(url, tag="first").version == one.version
    assert remote.fetch(url, version=one.version).version == one.version
    with remote.open(url, tag="first") as file:
        assert file.read() == b"one"
    assert remote.path(url, version=one.version).read_bytes() == b"one"
    assert remote.tag(url, "first", version=one.version, remove=True).tags == []
    pinned = remote.pin(url, duration_sec=3600)
    assert (pinned.version, pinned.pinned) == (two.version, True)
    assert pinned.pinned_until_utc is not None
    assert remote.pin(url, value=False).pinned is False


def test_removed_and_had_back(remote: RemoteForebay, origin: Origin) -> None:
    """One version or all of them; listed as removed, and back within a day."""
    url = origin.url("/a")
    resource = origin.serve("/a", Resource(b"one"))
    one = remote.fetch(url)
    resource.change(b"two", etag='"v2"')
    two = remote.fetch(url, refresh="always")
    assert [gone.version for gone in remote.delete(url, version=one.version)] == [one.version]
    assert [gone.version for gone in remote.delete(url)] == [two.version]
    assert remote.versions(url) == []
    assert remote.latest(url) is None
    assert {gone.version for gone in remote.versions(url, deleted=True)} == {one.version, two.version}
    assert [back.version for back in remote.undelete(url, version=two.version)] == [two.version]
    assert len(remote.undelete(url)) == 1
    with pytest.raises(UnknownVersion):
        remote.undelete(url)


def test_configured(remote: RemoteForebay, origin: Origin) -> None:
    """What is given changes, the rest stays; and it is the server's from then on."""
    url = origin.url("/a")
    origin.serve("/a", Resource(b"a"))
    remote.fetch(url, refresh="6h")
    assert (
        remote.configure(url, max_cached_unpinned_versions=7).cache_configuration.max_cached_unpinned_versions == 7
    )
    kept = remote.request(url).cache_configuration
    assert kept.recaching_strategy == ReCachingStrategy.age(seconds=21600)
    assert remote.configure(url, refresh="never").cache_configuration.max_cached_unpinned_versions == 7
    with pytest.raises(RequestError):
        remote.configure(url, max_cached_unpinned_versions=0)


def test_what_is_unknown(remote: RemoteForebay, origin: Origin) -> None:
    """Each call says so with the error of a folder."""
    url = origin.url("/a")
    for call in (remote.request, remote.latest, remote.versions, remote.find, remote.pin, remote.delete):
        with pytest.raises(UnknownRequest, match="nothing is known of"):
            call(url)
    origin.serve("/a", Resource(b"a"))
    remote.fetch(url)
    for wanted in ({"version": "20200101T000000000000Z"}, {"tag": "nope"}):
        with pytest.raises(UnknownVersion):
            remote.find(url, **wanted)
        with pytest.raises(UnknownVersion):
            remote.fetch(url, **wanted)
    with pytest.raises(UnknownRequest):
        remote.request("0" * 32)


def test_several_requests_of_one_url(remote: RemoteForebay, origin: Origin) -> None:
    """The plain one is meant; when none is, the ids are named, and each is found by its id."""
    origin.serve("/a", Resource(b"a"))
    url = origin.url("/a")
    ids = [remote.fetch(RequestSpec(url=url, http_header_fields={"X-N": number})).request_id for number in "12"]
    with pytest.raises(InvalidValue, match=ids[0]):
        remote.request(url)
    assert remote.request(ids[1]).id == ids[1]
    plain = remote.fetch(url).request_id
    assert remote.request(url).id == plain


def test_what_has_no_content(remote: RemoteForebay, origin: Origin) -> None:
    """A failed version is listed, and cannot be read, tagged or pinned."""
    url = origin.url("/a")
    origin.serve("/a", Status(404))
    with pytest.raises(OriginError, match="404"):
        remote.fetch(url)
    (failed,) = remote.versions(url)
    assert failed.status == "failed"
    for call in (
        lambda: remote.path(failed),
        lambda: remote.open(failed),
        lambda: remote.tag(url, "ab", version=failed.version),
    ):
        with pytest.raises(StateError, match="it is failed"):
            call()


# --- the server's folder --------------------------------------------------------------------------------


def test_the_storage_as_a_whole(remote_alone: RemoteForebay, served_alone: Served, origin: Origin) -> None:
    """Usage, sweep and check are the server's; progress is told in bytes, and rot with its versions."""
    for number in range(3):
        origin.serve(f"/{number}", Resource(blob(1000, number)))
    kept: list[Response] = [remote_alone.fetch(origin.url(f"/{number}")) for number in range(3)]
    used = remote_alone.usage()
    assert (used.requests, used.versions, used.content_bytes) == (3, 3, 3000)
    told: list[tuple[int, int]] = []
    assert remote_alone.verify(progress=lambda done, total: told.append((done, total))).rotten == []
    assert told[-1] == (3000, 3000)
    with Forebay(forebay.Settings(data=served_alone.folder)) as bay:
        rotten = bay.path(kept[1])
    rotten.chmod(0o600)
    rotten.write_bytes(b"x" * 1000)
    report = remote_alone.verify()
    assert report.checked == 3
    assert [version.version for rot in report.rotten for version in rot.responses] == [kept[1].version]
    remote_alone.delete(origin.url("/0"))
    assert remote_alone.gc(dry_run=True).evicted_bytes == remote_alone.gc().evicted_bytes


# --- who may --------------------------------------------------------------------------------------------


def token_of(served: Served, name: str, scopes: list[str]) -> str:
    with Forebay(forebay.Settings(data=served.folder)) as bay:
        return bay.tokens.add(name, scopes, now=0.0)[1]


def test_tokens(served_alone: Served, connect: Open, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing, wrong, too weak and good ones; given or from the environment."""
    origin.serve("/a", Resource(b"a"))
    url = origin.url("/a")
    reader, admin = token_of(served_alone, "reader", ["read"]), token_of(served_alone, "admin", ["admin"])
    with pytest.raises(TokenMissing):
        connect(served_alone.url).fetch(url)
    with pytest.raises(TokenInvalid) as wrong:
        connect(served_alone.url, token=SECRET).fetch(url)
    assert isinstance(wrong.value, AccessDenied)
    reading = connect(served_alone.url, token=reader)
    assert reading.path(url).read_bytes() == b"a"
    assert reading.request(url).url == url
    for forbidden in (lambda: reading.pin(url), reading.usage, lambda: reading.delete(url)):
        with pytest.raises(ScopeMissing):
            forbidden()
    monkeypatch.setenv("FOREBAY_TOKEN", admin)
    assert connect(served_alone.url).usage().requests == 1
    monkeypatch.setenv("FOREBAY_SERVER", served_alone.url + "/")
    assert connect(served_alone.url).usage().requests == 1
    from_environment = forebay.open()
    assert isinstance(from_environment, RemoteForebay)
    with from_environment:
        assert from_environment.usage().requests == 1


def test_a_token_is_shown_to_nobody_else(connect: Open, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the environment goes to the server of the environment only, and none follows a redirect."""
    monkeypatch.setenv("FOREBAY_TOKEN", SECRET)
    monkeypatch.setenv("FOREBAY_SERVER", "https://forebay.example.org")
    origin.serve("*", Status(404))
    with pytest.raises(ServerAnswerInvalid):
        connect(origin.url("")).usage()
    assert "authorization" not in origin.requests()[-1].fields
    origin.serve("*", Redirect("/elsewhere", 307))
    with pytest.raises(ServerAnswerInvalid, match="redirects to"):
        connect(origin.url(""), token=SECRET).usage()
    assert origin.requests()[-1].path == "/v1/storage/usage"
    assert origin.requests()[-1].fields["authorization"] == f"Bearer {SECRET}"


def test_secrets_are_not_shown(served_alone: Served, connect: Open, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a token nor a secret in a URL is in a repr, an error or a log, at any level."""
    token_of(served_alone, "admin", ["admin"])
    bay = connect(served_alone.url, token=SECRET)
    shown = [repr(bay), str(bay), repr(bay.settings), repr(vars(bay))]
    with caplog.at_level(logging.DEBUG):
        for call in (
            bay.usage,
            lambda: bay.request("http://a.example/?token=hush"),
            lambda: bay.find("http://u:hush@a"),
        ):
            with pytest.raises(forebay.ForebayError) as caught:
                call()
            shown += [str(caught.value), repr(caught.value)]
    shown += [caplog.text, served_alone.stderr()]
    for text in shown:
        assert SECRET not in text
        assert "hush" not in text


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("http://user:hush@a.example", {}),
        ("http://a.example/?x=hush", {}),
        ("http://", {}),
        ("http://a.example", {"token": "hush hush"}),
        ("http://a.example", {"token": "hush\r\nX-A: b"}),
        ("http://a.example", {"fallback": "hush"}),
        ("http://a.example", {"max_downloads": 1}),
        ("http://a.example", {"cache_bytes": "a lot"}),
    ],
)
def test_settings_that_break_a_rule(url: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """They are refused before anything is dialled, with no secret quoted."""
    with pytest.raises(RequestError) as caught:
        forebay.open(url, cache=tmp_path, **settings)
    assert "hush" not in str(caught.value).replace("got 'hush'", "")


def test_a_folder_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, and settings that only a folder has, mean a folder, whatever server the environment names."""
    monkeypatch.setenv("FOREBAY_SERVER", "http://a.example")
    monkeypatch.setenv("FOREBAY_DATA", str(tmp_path / "default"))
    monkeypatch.chdir(tmp_path)
    for bay in (forebay.open(tmp_path / "a"), forebay.open("http"), forebay.open(max_downloads=2)):
        assert isinstance(bay, Forebay)
        bay.close()


# --- without the server ---------------------------------------------------------------------------------


def test_a_server_that_is_not_there(connect: Open) -> None:
    """The error names it, why, and the way out."""
    url = nothing_listens()
    bay = connect(url)
    for call in (lambda: bay.fetch("http://a.example"), bay.usage, lambda: bay.open("http://a.example")):
        with pytest.raises(ServerUnreachable) as caught:
            call()
        assert url.rstrip("/") in str(caught.value)
        assert "refused" in str(caught.value)
        assert "forebay serve" in str(caught.value)
    (failed,) = bay.fetch_many(["http://a.example"])
    assert isinstance(failed.error, ServerUnreachable)
    with pytest.raises(ServerUnreachable, match=r"a\.invalid"):
        connect("http://a.invalid").usage()


def test_fetched_directly_meanwhile(
    connect: Open, origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the fallback, all that is about content works, is told once, and is kept in the cache's own folder."""
    body = blob(100_000)
    origin.serve("/a", Resource(body))
    origin.serve("/b", Resource(b"b"))
    url = origin.url("/a")
    bay = connect(nothing_listens(), fallback="direct")
    seen: list[str] = []
    with caplog.at_level(logging.WARNING, "forebay"):
        response = bay.fetch(url, progress=lambda _, progress: seen.append(progress.state))
        assert bay.path(response).read_bytes() == body
        assert bay.path(response).is_relative_to(tmp_path / "cache" / "direct")
        assert bay.path(url).read_bytes() == body
        with bay.open(response) as file, bay.open(url) as other:
            assert file.read() == other.read() == body
        fetched = {answer.asked: answer for answer in bay.fetch_many([url, origin.url("/b")], content=True)}
    assert fetched[url].how == "stored"
    assert fetched[origin.url("/b")].how == "fetched"
    assert seen[-1] == "done"
    assert [record.getMessage().count("fetching directly") for record in caplog.records] == [1]
    assert len(origin.requests("/a", "GET")) == 1
    with pytest.raises(HashMismatch):
        bay.fetch(origin.url("/b"), expected_hash="md5:" + "0" * 32, refresh="always")
    # Names, tags and pins are the server's.
    for call in (lambda: bay.fetch(url, tag="ab"), lambda: bay.pin(url), lambda: bay.open(url, version="v")):
        with pytest.raises(ServerUnreachable):
            call()


def test_a_proxy_that_finds_no_server(connect: Open, origin: Origin) -> None:
    """Its 502 to 504 count as out of reach."""
    origin.serve("/a", Resource(b"a"))
    origin.serve("*", Status(503, b"<h1>no upstream</h1>"))
    bay = connect(origin.url(""), fallback="direct")
    assert bay.path(origin.url("/a")).read_bytes() == b"a"
    assert len(origin.requests("/v1/fetch")) == 1


def test_what_the_server_says_is_not_gone_around(served_alone: Served, connect: Open, origin: Origin) -> None:
    """Its own errors are answers: nothing is fetched directly because of them."""
    origin.serve("/a", Status(404))
    token_of(served_alone, "somebody", ["read"])
    with pytest.raises(TokenMissing):
        connect(served_alone.url, fallback="direct").fetch(origin.url("/a"))
    assert origin.requests() == []


def test_the_server_is_used_again(
    serve: Callable[..., Served], connect: Open, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it is back, what it fetches is asked of it; content of the time without it stays readable."""
    origin.serve("/a", Resource(b"a"))
    served = serve()
    bay = connect(served.url, fallback="direct")
    port = int(served.url.rpartition(":")[2])
    served.stop()
    meanwhile = bay.fetch(origin.url("/a"))
    back = serve(port=port)
    monkeypatch.setattr("forebay.client.direct._DOWN_S", 0.0)
    bay._outage._until = 0.0  # time passes
    assert bay.fetch(origin.url("/a")).request_id != meanwhile.request_id
    assert bay.path(meanwhile).read_bytes() == b"a"
    assert [request.url for request in bay.requests()] == [origin.url("/a")]
    assert back.url == served.url


# --- for an event loop ----------------------------------------------------------------------------------


def test_the_same_for_an_event_loop(served_alone: Served, origin: Origin, tmp_path: Path) -> None:
    """Each call of the sync face, awaited."""
    url = origin.url("/a")
    resource = origin.serve("/a", Resource(b"one"))
    origin.serve("/gone", Status(404))

    async def use() -> None:
        async with forebay.aopen(served_alone.url, cache=tmp_path / "cache") as bay:
            assert isinstance(bay, forebay.AsyncRemoteForebay)
            assert served_alone.url in repr(bay)
            seen: list[str] = []
            one = await bay.fetch(url, progress=lambda _, progress: seen.append(progress.state))
            assert seen[-1] == "done"
            assert (await bay.path(one)).read_bytes() == b"one"
            resource.change(b"two", etag='"v2"')
            two = await bay.fetch(url, refresh="always", content=True)
            assert await bay.cached(two) == await bay.path(two)
            with await bay.open(url) as file:
                assert file.read() == b"two"
            answers: list[Fetched] = [
                answer async for answer in bay.fetch_many([url, origin.url("/gone"), "ftp://no"])
            ]
            assert sorted(answer.how for answer in answers) == ["failed", "failed", "stored"]
            assert len(await bay.requests()) == 2
            assert (await bay.request(url)).url == url
            latest = await bay.latest(url)
            assert latest is not None
            assert latest.version == two.version
            assert len(await bay.versions(url)) == 2
            assert (await bay.tag(url, "ab", version=one.version)).tags == ["ab"]
            assert (await bay.find(url, tag="ab")).version == one.version
            assert (await bay.pin(url)).pinned
            assert len(await bay.delete(url)) == 2
            assert len(await bay.undelete(url)) == 2
            assert (await bay.configure(url, refresh="never")).cache_configuration.recaching_strategy == (
                ReCachingStrategy.never()
            )
            assert (await bay.usage()).requests == 2
            assert (await bay.verify()).checked == 2
            assert (await bay.gc(dry_run=True)).freed_bytes == 0

    asyncio.run(use())


def test_a_cancelled_fetch_lets_go(served: Served, origin: Origin, tmp_path: Path) -> None:
    """The loop goes on at once, and the same content can be had afterwards."""
    gate = Semaphore(1)
    body = blob(300_000)
    origin.serve("/slow", Drip(Resource(body), 100_000, gate))

    async def use() -> None:
        async with forebay.aopen(served.url, cache=tmp_path / "cache") as bay:
            seen = asyncio.Event()
            loop = asyncio.get_running_loop()

            def progress(_: str, how_far: forebay.Progress) -> None:
                if how_far.downloaded_bytes:
                    loop.call_soon_threadsafe(seen.set)

            task = asyncio.create_task(bay.fetch(origin.url("/slow"), progress=progress, content=True))
            await seen.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.release(2)
            assert (await bay.path(origin.url("/slow"))).read_bytes() == body

    asyncio.run(use())
    assert len(origin.requests("/slow", "GET")) == 1


def test_directly_for_an_event_loop(origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fallback of the sync face, awaited; without it, the error."""
    monkeypatch.setenv("FOREBAY_BACKOFF_BASE_S", "0.01")
    origin.serve("/a", Resource(b"a"))
    url, gone = origin.url("/a"), nothing_listens()

    async def use() -> None:
        async with forebay.aopen(gone, cache=tmp_path / "cache", fallback="direct") as bay:
            response = await bay.fetch(url)
            assert (await bay.path(response)).read_bytes() == b"a"
            assert (await bay.path(url)).read_bytes() == b"a"
            for what in (response, url):
                with await bay.open(what) as file:
                    assert await asyncio.to_thread(file.read) == b"a"
            with pytest.raises(ServerUnreachable):
                await bay.usage()
        async with forebay.aopen(gone, cache=tmp_path / "cache") as bay:
            for call in (bay.fetch(url), bay.open(url), bay.path(url)):
                with pytest.raises(ServerUnreachable):
                    await call

    asyncio.run(use())
