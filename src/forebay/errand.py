"""One ask for one URL, from what is stored to a finished fetch: the steps, written once.

An errand does no waiting. `begin` and `settled` say what is next: a `Fetched` to hand out, or a `Job` to run.
The sync and the async face of the API each drive it their own way.
"""

from __future__ import annotations

from collections.abc import Callable

from forebay.catalog.catalog import Catalog, Registered
from forebay.content.files import FileContentStore
from forebay.core.exchange import Ask, Limits
from forebay.core.reuse import Fetch, Refuse, Serve, Validate, decide
from forebay.core.urls import show_url, with_query
from forebay.errors import (
    ContentRotten,
    ForebayError,
    HashMismatch,
    LeaseLost,
    NotStored,
    StateError,
    UnknownRequest,
    UnknownVersion,
)
from forebay.fetch.tickets import Settled, Ticket
from forebay.fetch.transfer import Job
from forebay.models import UNDER_WAY, AnyStrategy, Request, Response, body_to_send
from forebay.reports import Fetched, How
from forebay.retold import failure_of
from forebay.wishes import Wish

MAX_ROUNDS = 20
"""Rounds of "another process was at it": each ends with a fetch that has finished somewhere."""

Next = Fetched | Job


class Errand:
    """Gets one `Wish` done. Its methods do catalog work and may be called from any one thread at a time."""

    def __init__(
        self,
        wish: Wish,
        *,
        catalog: Catalog,
        store: FileContentStore,
        limits: Limits,
        clock: Callable[[], float],
        began_at: float | None = None,
    ) -> None:
        """*began_at*: this goes on with what was begun then; a fetch that has ended since is what it waited
        for."""
        self.wish = wish
        self.url = show_url(wish.spec.url)
        self._catalog, self._store, self._limits, self._clock = catalog, store, limits, clock
        self._signature = wish.spec.signature()
        self._began_at = clock() if began_at is None else began_at
        self._goes_on = began_at is not None
        self._rounds = 0
        # What was the latest version before a job was handed out.
        self._before: str | None = None

    def begin(self, registered: Registered | None) -> Next:
        """What is first; *registered* is the Request as just found or created, None if it is unknown."""
        try:
            if registered is not None and registered.latest is not None:
                self._before = registered.latest.version
            return self._look(registered, shared=self._goes_on)
        except ForebayError as error:
            return self._fetched(None, "failed", error)

    def settled(self, settled: Settled | ForebayError) -> Next:
        """What follows a job's end."""
        try:
            return self._after(settled)
        except ForebayError as error:
            return self._fetched(None, "failed", error)

    def _fetched(
        self,
        response: Response | None,
        how: How,
        error: ForebayError | None = None,
    ) -> Fetched:
        return Fetched(self.url, response, how, error, asked=self.wish.asked)

    def _after(self, settled: Settled | ForebayError) -> Next:
        if isinstance(settled, LeaseLost):
            return self._again(shared=False)
        if isinstance(settled, ForebayError):
            return self._without(settled)
        if isinstance(settled.error, HashMismatch) and not self._is_mine(settled.error):
            return self._again(shared=False)  # it was fetched for another's expectation
        match settled.status:
            case "elsewhere":
                return self._after_elsewhere(settled.response)
            case "failed":
                return self._without(settled.error or failure_of(None, None))
            case "ready":
                response = settled.response
                if response is None or not self._is_expected(response):
                    return self._again(shared=False)  # evicted at once, or fetched for another's expectation
                return self._fetched(response, "fetched")
            case "duplicate" | "unchanged":
                return self._unchanged()

    def _is_mine(self, error: HashMismatch) -> bool:
        return self.wish.expected == (error.algorithm, error.expected)

    def _unchanged(self) -> Next:
        registered = self._catalog.find(self._signature, now=self._clock())
        latest = None if registered is None else self._latest(registered)
        if latest is None or self._is_rotten(latest):
            return self._again(shared=False)
        if not self._is_expected(latest):
            raise self._mismatch(latest)
        return self._fetched(latest, "unchanged")

    def _mismatch(self, latest: Response) -> HashMismatch:
        """What the origin has now is stored, and not what is expected."""
        assert self.wish.expected is not None
        algorithm, expected = self.wish.expected
        got = self._digest(latest, algorithm)
        return HashMismatch(self.url, algorithm=algorithm, expected=expected, got=got, kept=latest.version)

    def _after_elsewhere(self, response: Response | None) -> Next:
        """Another process has ended its fetch; its failure is ours, its success we share."""
        if response is not None and response.status == "failed":
            stats = response.download_stats
            if stats.error_code == HashMismatch.code:
                return self._again(shared=False)  # whatever was expected there is not ours
            return self._without(failure_of(stats.error_code, stats.error))
        return self._again(shared=True)

    def _again(self, *, shared: bool) -> Next:
        self._rounds += 1
        if self._rounds > MAX_ROUNDS:
            raise StateError(f"{self.url}: other fetches of it kept coming between; try again")
        return self._look(self._catalog.find(self._signature, now=self._clock()), shared=shared)

    def _look(self, registered: Registered | None, *, shared: bool) -> Next:
        """Decide by what is stored now. *shared*: a fetch that began before us has just ended elsewhere, and
        what it found counts as asked for by us."""
        wish, now = self.wish, self._clock()
        if wish.version is not None or wish.tag is not None:
            return self._named(registered)
        if registered is None:
            raise self._missing()
        strategy = wish.refresh or registered.request.cache_configuration.recaching_strategy
        checked_at = registered.facts.checked_at
        shared = shared and checked_at is not None and checked_at >= self._began_at
        decision = decide(
            registered.latest,
            due_at=strategy.next_due(registered.facts),
            on_request=strategy.on_request and not shared,
            now=now,
            offline=wish.stays,
            expected_sha256=wish.expected[1] if wish.expected and wish.expected[0] == "sha256" else None,
        )
        match decision:
            case Serve():
                return self._serve(registered, shared=shared)
            case Refuse():
                raise self._missing()
            case Fetch():
                if shared and registered.latest is not None:
                    return self._serve(registered, shared=True)  # its digest is known not to be the expected one
                return self._job(registered, strategy, validate=False)
            case Validate():
                return self._job(registered, strategy, validate=True)

    def _missing(self) -> ForebayError:
        return NotStored(self.url) if self.wish.offline else UnknownRequest(self.url)

    def _serve(self, registered: Registered, *, shared: bool) -> Next:
        latest = self._latest(registered)
        if latest is None or self._is_rotten(latest):
            return self._again(shared=False)
        if not self._is_expected(latest):
            if self.wish.stays:
                raise self._missing()
            if shared:
                raise self._mismatch(latest)  # the origin was asked since we began: this is what it has
            strategy = registered.request.cache_configuration.recaching_strategy
            return self._job(registered, strategy, validate=False)
        if not shared:
            return self._fetched(latest, "stored")
        return self._fetched(latest, "unchanged" if latest.version == self._before else "fetched")

    def _named(self, registered: Registered | None) -> Fetched:
        wish = self.wish
        wanted = f"version {wish.version}" if wish.version else f"version tagged {wish.tag}"
        found = None
        if registered is not None:
            found = self._catalog.find_version(
                registered.request.id, version=wish.version, tag=wish.tag, now=self._clock()
            )
        if found is None or self._is_rotten(found):
            raise UnknownVersion(self.url, wanted=wanted)
        return self._fetched(found, "stored")

    def _latest(self, registered: Registered) -> Response | None:
        if registered.latest_id is None:
            return None
        return self._catalog.response(registered.latest_id, now=self._clock())

    def _is_rotten(self, response: Response) -> bool:
        """Whether the bytes are obviously not there; that is then told to everyone."""
        attributes = response.content_attributes
        assert attributes.sha256 is not None
        assert attributes.content_size_bytes is not None
        try:
            self._store.open(attributes.sha256, size_bytes=attributes.content_size_bytes).close()
        except ContentRotten as error:
            self._catalog.mark_rotten(attributes.sha256, found=str(error), now=self._clock())
            return True
        return False

    def _is_expected(self, response: Response) -> bool:
        return self.wish.expected is None or self._digest(response, self.wish.expected[0]) == self.wish.expected[1]

    def _digest(self, response: Response, algorithm: str) -> str:
        """A digest of a version's content; one of another algorithm costs reading the bytes, once a process."""
        sha256 = response.content_attributes.sha256
        assert sha256 is not None
        return sha256 if algorithm == "sha256" else self._store.digest(sha256, algorithm)

    def _without(self, error: ForebayError) -> Fetched:
        """The fetch failed: the last good version, if it will do."""
        if isinstance(error, HashMismatch | StateError):
            raise error
        registered = self._catalog.find(self._signature, now=self._clock())
        latest = None if registered is None else self._latest(registered)
        if latest is None or self._is_rotten(latest) or not self._is_expected(latest):
            raise error
        return self._fetched(latest, "stale", error)

    def _job(self, registered: Registered, strategy: AnyStrategy, *, validate: bool) -> Job:
        latest = registered.latest if validate else None
        return make_job(
            registered,
            limits=self._limits,
            validate=validate,
            probe=latest is not None and strategy.may_probe(registered.facts),
            expected=self.wish.expected,
        )


class VersionErrand:
    """Gets one version, which may be under way, to its end; as an `Errand` does for a URL. *job*: the fetch of a
    Request."""

    def __init__(
        self,
        response: Response,
        *,
        catalog: Catalog,
        job: Callable[[Registered], Job],
        clock: Callable[[], float],
    ) -> None:
        self._wanted = response
        self._catalog, self._job, self._clock = catalog, job, clock
        self._rounds = 0

    def begin(self) -> Next:
        """What is first."""
        if self._wanted.status in UNDER_WAY:
            return self._look()
        return Fetched(self._wanted.url, self._wanted, "stored")

    def settled(self, settled: Settled | ForebayError) -> Next:
        """What follows a job's end."""
        if isinstance(settled, ForebayError) and not isinstance(settled, LeaseLost):
            return self._failed(settled)
        return self._look()

    def _look(self) -> Next:
        # The Request first: should the version end in between, the fence says so.
        registered = self._catalog.request(self._wanted.request_id, now=self._clock())
        response = self._catalog.response(self._wanted.id, now=self._clock())
        if response is None:
            return self._unchanged(registered)
        if response.status == "failed":
            stats = response.download_stats
            return self._failed(failure_of(stats.error_code, stats.error))
        if response.status not in UNDER_WAY:
            return Fetched(response.url, response, "fetched")
        self._rounds += 1
        if self._rounds > MAX_ROUNDS:
            return self._failed(StateError(f"{response.url}: its fetch kept being handed on; try again"))
        return self._job(registered)

    def _unchanged(self, registered: Registered) -> Fetched:
        """The version is gone: the origin had nothing new, and the one before it has the content."""
        before = registered.latest
        if before is None or registered.latest_id is None or before.version > self._wanted.version:
            return self._failed(UnknownVersion(self._wanted.url, wanted=f"version {self._wanted.version}"))
        response = self._catalog.response(registered.latest_id, now=self._clock())
        return Fetched(self._wanted.url, response, "unchanged")

    def _failed(self, error: ForebayError) -> Fetched:
        return Fetched(self._wanted.url, None, "failed", error)


def outcome_of(ticket: Ticket) -> Settled | ForebayError:
    """How a ticket's job ended; waits for it."""
    try:
        settled = ticket.wait()
    except ForebayError as error:
        return error
    assert settled is not None
    return settled


def make_job(
    registered: Registered,
    *,
    limits: Limits,
    validate: bool,
    probe: bool,
    expected: tuple[str, str] | None = None,
) -> Job:
    """The download of a Request; with *validate*, conditional on its latest ready version."""
    latest = registered.latest
    return Job(
        request_id=registered.request.id,
        host=registered.host,
        fence=registered.fence,
        ask=_ask(registered.request),
        limits=limits,
        hash_name=registered.request.validation_hash_type,
        stored=latest if validate else None,
        probe=probe,
        previous_media_type=None if latest is None else latest.media_type,
        expected=expected,
    )


def _ask(request: Request) -> Ask:
    body, kind = body_to_send(request.http_request_body)
    fields = list((request.http_header_fields or {}).items())
    if kind is not None and not any(name.lower() == "content-type" for name, _ in fields):
        fields.append(("Content-Type", kind))
    url = with_query(request.url, request.http_query_params)
    return Ask(request.http_method.upper(), url, tuple(fields), body)
