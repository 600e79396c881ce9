"""`Forebay`: the composition root and the embedded API, long because it is all that a folder offers.

`forebay.open` and `forebay.aopen` make one.

Nothing runs until something is asked for: a fresh copy opens no connection, the first fetch starts the
threads.
"""

from __future__ import annotations

import logging
import mimetypes
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar, overload

from pydantic import ValidationError

from forebay.catalog.catalog import Catalog, Registered, Usage
from forebay.catalog.chunks import ChunkRows
from forebay.catalog.database import Database
from forebay.catalog.frontier import Frontier
from forebay.catalog.publishing import Published, publish
from forebay.catalog.tokens import Tokens
from forebay.catalog.uploads import UploadRows
from forebay.clock import unix_now
from forebay.content.files import FileContentStore
from forebay.content.following import Following, Followings
from forebay.content.partial import Partials
from forebay.content.wakeups import Wakeups
from forebay.core.filenames import safe_filename
from forebay.core.strategies import Facts
from forebay.core.urls import request_url, show_url, upload_url
from forebay.driving import Drive
from forebay.durable import storage_errors
from forebay.errand import Errand, make_job
from forebay.errors import (
    ForebayError,
    InvalidValue,
    StateError,
    UnknownVersion,
)
from forebay.fetch.exchange import TransportSettings
from forebay.fetch.fetcher import Fetcher
from forebay.fetch.gate import Gate
from forebay.fetch.owner import Owner
from forebay.fetch.scheduler import Scheduler
from forebay.fetch.tickets import Ticket
from forebay.fetch.told import progress_of, told, total_of, version_of
from forebay.fetch.transfer import Job
from forebay.fetch.transport import Transport
from forebay.functions.registry import Registry
from forebay.housekeeping import Housekeeping, Touches
from forebay.models import (
    UNDER_WAY,
    AnyStrategy,
    Never,
    Request,
    RequestCacheConfiguration,
    RequestSpec,
    Response,
    Upload,
    check_tag,
    invalid_from,
    without_secrets,
)
from forebay.reading import Opening
from forebay.reports import (
    Fetched,
    GcItem,
    GcReport,
    OnProgress,
    OnSending,
    Progress,
    StorageUsage,
    VerifyReport,
    response_or_raise,
)
from forebay.settings import Settings
from forebay.sources import Source, parcel
from forebay.trust import system_ca_file
from forebay.uploads.ingest import ingest
from forebay.uploads.sessions import Uploads
from forebay.wishes import Wish, is_request_id, strategy_of, the_one, wishes

if TYPE_CHECKING:
    from forebay.server.mounted import Mounted

log = logging.getLogger("forebay")

F = TypeVar("F", bound=Callable[..., Any])


class Forebay:
    """A folder of versions, and the downloads that fill it. Usable from any thread; close it when done.

    Its parts (``catalog``, ``frontier``, ``store``, ``partials``, ``owner``, ``wakeups``, ``functions``) are for
    what is built on it within Forebay, such as the server.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._gate = Gate(settings.allow_networks, allow_private=settings.allow_private)
        self.folder = settings.data.expanduser().absolute()
        with storage_errors(f"the folder {self.folder}", self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.store = FileContentStore(self.folder / "content")
        self._database = Database(self.folder / "catalog.sqlite")
        with storage_errors(f"the folder {self.folder}", self.folder):
            self.owner = Owner(self.folder / "owners")
            self.wakeups = Wakeups(self.folder / "wakeups", owner=self.owner.id, is_alive=self.owner.is_alive)
            self.partials = Partials(self.folder / "partial", ring=self.wakeups.ring)
            self._followings = Followings(self.partials, total_of=total_of, version_of=version_of)
        self.catalog = Catalog(self._database)
        self.frontier = Frontier(self._database)
        self.tokens = Tokens(self._database)
        self._touches = Touches(self.catalog)
        self._limits = settings.limits()
        self._clock = unix_now
        self._house = Housekeeping(
            catalog=self.catalog,
            frontier=self.frontier,
            store=self.store,
            partials=self.partials,
            owner=self.owner,
            clock=self._clock,
            quota_bytes=settings.quota_bytes,
            sweep_grace_s=settings.sweep_grace_s,
            partial_keep_s=settings.partial_keep_s,
            touches=self._touches,
            tell=log.warning,
        )
        self._fetcher = Fetcher(
            catalog=self.catalog,
            frontier=self.frontier,
            store=self.store,
            partials=self.partials,
            owner=self.owner,
            make_transport=self._make_transport,
            max_downloads=settings.max_downloads,
            max_per_host=settings.max_downloads_per_host,
            clock=self._clock,
            extension_for=extension_for,
            after_finish=self._house.after,
        )
        with storage_errors(f"the folder {self.folder}", self.folder):
            self.uploads = Uploads(
                self.folder / "uploads",
                rows=UploadRows(self._database),
                chunk_rows=ChunkRows(self._database),
                store=self.store,
                settings=settings,
                me=self.owner.id,
                is_alive=self.owner.is_alive,
                clock=self._clock,
                publish=self.publish,
            )
        self.functions = Registry(self)
        self._at_close: list[Callable[[], None]] = []
        self._closed = False

    def _make_transport(self) -> Transport:
        settings = self.settings
        return Transport(
            self._gate,
            TransportSettings(
                user_agent=settings.user_agent,
                connect_timeout_s=settings.connect_timeout_s,
                stall_bytes_per_s=settings.stall_bytes_per_s,
                stall_window_s=settings.stall_window_s,
                proxy=settings.proxy,
                ca_file=system_ca_file(),
            ),
        )

    def close(self) -> None:
        """Suspend the downloads that run (they can be resumed), write what has gathered, close everything."""
        if self._closed:
            return
        self._closed = True
        for call in self._at_close:
            call()
        self.uploads.close()
        self._fetcher.close()
        try:
            self._touches.write()
        except ForebayError as error:
            log.warning("times of use were not written: %s", error)
        self.wakeups.close()
        self.owner.close()
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- fetching --------------------------------------------------------------------------------------

    def fetch(
        self,
        url: str | RequestSpec,
        *,
        sha256: str | None = None,
        expected_hash: str | None = None,
        refresh: str | AnyStrategy | None = None,
        tag: str | None = None,
        version: str | None = None,
        offline: bool = False,
        progress: OnProgress | None = None,
    ) -> Response:
        """The version of *url* to use now: stored and fresh, or fetched; `ready` and verified on return.

        *sha256* (hex) or *expected_hash* (``"md5:…"``): the bytes must have it, else `HashMismatch`. *refresh*:
        how fresh it must be, as a strategy or a text such as ``"6h"``, ``"always"``, ``"never"``; for this call
        only, but a URL asked for the first time is registered with it. *tag*, *version*: a stored version of
        that name; nothing is fetched. *offline*: nothing is fetched either. *progress* is called about ten
        times a second in the caller's thread.

        When the origin fails and a version is stored, that one is returned and the failure is logged as a
        warning; `fetch_many` gives it as a value. Raises `OriginError` when there is none, `RequestError` for
        what cannot be asked.
        """
        for fetched in self.fetch_many(
            [url],
            sha256=sha256,
            expected_hash=expected_hash,
            refresh=refresh,
            tag=tag,
            version=version,
            offline=offline,
            progress=progress,
        ):
            return response_or_raise(fetched)
        raise AssertionError("one URL gives one answer")

    def fetch_many(
        self,
        urls: Iterable[str | RequestSpec],
        *,
        sha256: str | None = None,
        expected_hash: str | None = None,
        refresh: str | AnyStrategy | None = None,
        tag: str | None = None,
        version: str | None = None,
        offline: bool = False,
        progress: OnProgress | None = None,
    ) -> Generator[Fetched, None, None]:
        """`fetch` for many URLs at once; each answer comes when it is there, failures as values.

        The limits of downloads at once and for each host hold. A caller that stops early suspends what it had
        begun."""
        make = wishes(sha256, expected_hash, refresh, tag, version, offline)
        # Checked now, not at the first answer.
        return Drive(self, make, progress).answers(iter(urls))

    # The steps of a fetch, for whoever drives errands: `fetch_many` here, `AsyncForebay` beside.

    def register(self, wishes: Sequence[Wish]) -> Sequence[Registered | None]:
        """The Requests of *wishes*, which are alike but for their URLs; registered unless that is not wanted."""
        if not wishes:
            return []
        now = self._clock()
        first = wishes[0]
        if first.offline or first.version is not None or first.tag is not None:
            return [self.catalog.find(wish.spec.signature(), now=now) for wish in wishes]
        if any(wish.stays for wish in wishes):
            return [self._found_or_created(wish, now) for wish in wishes]
        return self.catalog.find_or_create([wish.spec for wish in wishes], now=now)

    def _found_or_created(self, wish: Wish, now: float) -> Registered | None:
        if wish.stays:
            return self.catalog.find(wish.spec.signature(), now=now)
        (registered,) = self.catalog.find_or_create([wish.spec], now=now)
        return registered

    def errand(self, wish: Wish, *, began_at: float | None = None) -> Errand:
        """What gets *wish* done; *began_at*: going on with what was begun then."""
        return Errand(
            wish,
            catalog=self.catalog,
            store=self.store,
            limits=self._limits,
            clock=self._clock,
            began_at=began_at,
        )

    def job(self, registered: Registered) -> Job:
        """The fetch of a Request that is due."""
        strategy = registered.request.cache_configuration.recaching_strategy
        probe = registered.latest is not None and strategy.may_probe(registered.facts)
        return make_job(registered, limits=self._limits, validate=True, probe=probe)

    def submit(self, job: Job) -> Ticket:
        """Have *job* run."""
        return self._fetcher.submit([job])[0]

    def submit_all(self, jobs: Sequence[Job]) -> list[Ticket]:
        """Have *jobs* run."""
        return self._fetcher.submit(jobs)

    def let_go(self, ticket: Ticket) -> None:
        """The caller waits for *ticket* no longer."""
        self._fetcher.let_go(ticket)

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have *call* called, for a finalizer; see `Fetcher.call_soon`."""
        self._fetcher.call_soon(call)

    def note_used(self, response_id: str, request_id: str) -> None:
        """A version is read now."""
        self._touches.note(response_id, request_id, now=self._clock())

    def note(self, fetched: Fetched) -> Fetched:
        """*fetched*, its time of use noted."""
        if fetched.response is not None:
            self.note_used(fetched.response.id, fetched.response.request_id)
        return fetched

    # --- content ---------------------------------------------------------------------------------------

    def follow(self, request_id: str, *, fence: int | None = None) -> Following | None:
        """What is landing for a Request now, in whatever process: from when its head is known and the first bytes
        are there until its commit. None at other times: look at the catalog then, after this. Watch
        ``wakeups`` for the Request's id to know when to look again. What its mark tells: `fetch.told`.
        Close it when done. *fence*: the Request's, when it was just read; then the catalog is not asked."""
        fence = self.frontier.fence(request_id) if fence is None else fence
        return self._followings.follow(request_id, fence=fence, live=self._is_written)

    def _is_written(self, meta: bytes) -> bool:
        owner = told(meta).owner
        return owner is not None and self.owner.is_alive(owner)

    def open(self, what: str | Response, *, tag: str | None = None, version: str | None = None) -> BinaryIO:
        """The content as a seekable binary file: of a version, or of a URL, which is fetched when needed. It
        stays readable whatever is evicted meanwhile.

        What has to be fetched, or is being fetched, is read as it lands: the file is there when the head of the
        origin's answer is, a read waits for the bytes that it asks for, whichever process fetches them. The end of
        the content shows only when all of it is verified and stored as safely as by `fetch`. When the download
        fails, reads raise its error; `FollowBroken` when it had to start over. Before there is a head, errors and
        stale versions are as with `fetch`. Closing the file suspends a download that nobody else waits for.
        """
        opening = self.opening(what, tag=tag, version=version)
        try:
            while (file := opening.step()) is None:
                opening.wait()
            return file
        finally:
            opening.close()

    def opening(
        self,
        what: str | Response,
        *,
        tag: str | None = None,
        version: str | None = None,
        wake: Callable[[], None] = lambda: None,
    ) -> Opening:
        """The steps of `open`, for whoever does not want to wait in a thread."""
        return Opening(self, what, tag=tag, version=version, wake=wake)

    def path(self, what: str | Response, *, tag: str | None = None, version: str | None = None) -> Path:
        """Where the content is, read only, once it is ready. An evicted version's file goes with the sweep, an hour
        later by default: pin what must stay."""
        response = what if isinstance(what, Response) else self.fetch(what, tag=tag, version=version)
        if response.content_attributes.sha256 is None:
            raise StateError(f"version {response.version} has no content: it is {response.status}")
        self.open(response).close()
        return self.store.path(response.content_attributes.sha256)

    # --- versions --------------------------------------------------------------------------------------

    def requests(self) -> list[Request]:
        """All that is registered, the oldest first; secrets in header fields are masked."""
        return [without_secrets(request) for request in self.catalog.list_requests()]

    def latest(self, url: str) -> Response | None:
        """The newest ready version of *url*, or None."""
        return self.catalog.latest_ready(self.request(url).id, now=self._clock())

    def versions(self, url: str, *, deleted: bool = False) -> list[Response]:
        """All versions of *url*, the newest first, whatever their status; with *deleted*, those that
        `undelete` can have back."""
        found = self.catalog.versions(self.request(url).id, deleted=deleted, now=self._clock())
        return [self.with_progress(response) for response in found]

    def find(self, url: str, *, version: str | None = None, tag: str | None = None) -> Response:
        """The version of that name (whatever its status), the newest with that tag, or the newest ready one.
        `UnknownVersion`."""
        if version is None and tag is None:
            found = self.latest(url)
        else:
            found = self.catalog.find_version(
                self.request(url).id, version=version, tag=tag, any_status=version is not None, now=self._clock()
            )
        if found is None:
            wanted = (
                f"version {version}" if version else f"version tagged {tag}" if tag else "version that is ready"
            )
            raise UnknownVersion(show_url(url), wanted=wanted)
        return found

    def _find_usable(self, url: str, *, version: str | None) -> Response:
        response = self.find(url, version=version)
        if response.status == "duplicate" and response.previous_version is not None:
            return self.find(url, version=response.previous_version)  # the version that it equals, and that stays
        if response.status not in ("ready", "duplicate"):
            raise StateError(f"version {response.version} has no content: it is {response.status}")
        return response

    def tag(self, url: str, tag: str, *, version: str | None = None, remove: bool = False) -> Response:
        """Name a version (the newest ready one by default), or take the name away. Several versions may have
        one tag; the newest of them is meant by it."""
        response = self._find_usable(url, version=version)
        self.catalog.tag(response.id, check_tag(tag), remove=remove)
        return self._reread(response)

    def pin(
        self, url: str, *, version: str | None = None, value: bool = True, duration_sec: float | None = None
    ) -> Response:
        """Hold a version against eviction, for ever or for *duration_sec*; with ``value=False`` let it go."""
        if duration_sec is not None and not duration_sec > 0:
            raise InvalidValue("duration_sec", expected="a positive number of seconds", got=duration_sec)
        response = self._find_usable(url, version=version)
        until = None if duration_sec is None else self._clock() + duration_sec
        self.catalog.pin(response.id, value=value, until=until)
        if not value:
            self._house.retain(response.request_id)
        return self._reread(response)

    def delete(self, url: str, *, version: str | None = None) -> list[Response]:
        """Remove a version, or all of *url*, which is then fetched no more by itself; a fetch of it that runs is
        given up, and whoever still waits for that has it fetched anew. `undelete` has the versions back for a
        day."""
        request = self.request(url)
        with self._database.write(durable=True):  # all of it at once: what commits comes before or after
            fence = self.frontier.abandon(request.id) if version is None else None
            every = self.catalog.versions(request.id, now=self._clock())
            chosen = [r for r in every if r.status not in UNDER_WAY and version in (None, r.version)]
            if version is not None and not chosen:
                raise UnknownVersion(show_url(url), wanted=f"version {version}")
            self.catalog.delete_versions([response.id for response in chosen], now=self._clock())
            if version is None:
                self.catalog.schedule(request.id, None)
        if fence is not None:
            self.partials.discard(request.id, fence=fence)
        return chosen

    def undelete(self, url: str, *, version: str | None = None) -> list[Response]:
        """Undo `delete`."""
        request = self.request(url)
        gone = self.catalog.versions(request.id, deleted=True, now=self._clock())
        chosen = [response for response in gone if version in (None, response.version)]
        if not chosen:
            raise UnknownVersion(show_url(url), wanted="removed version that can be had back")
        self.catalog.restore_versions([response.id for response in chosen])
        self._reschedule(request.id, request.cache_configuration)
        return [self._reread(response) for response in chosen]

    def configure(
        self,
        url: str,
        *,
        refresh: str | AnyStrategy | None = None,
        max_cached_unpinned_versions: int | None = None,
        max_cached_pinned_versions: int | None = None,
    ) -> Request:
        """Change when *url* is fetched again and how many versions are kept, from now on."""
        request = self.request(url)
        values: dict[str, Any] = dict(request.cache_configuration)
        if refresh is not None:
            values["recaching_strategy"] = strategy_of(refresh)
        if max_cached_unpinned_versions is not None:
            values["max_cached_unpinned_versions"] = max_cached_unpinned_versions
        if max_cached_pinned_versions is not None:
            values["max_cached_pinned_versions"] = max_cached_pinned_versions
        try:
            configuration = RequestCacheConfiguration(**values)
        except ValidationError as error:
            raise invalid_from(error, "cache_configuration") from error
        self._reschedule(request.id, configuration)
        self._house.retain(request.id)
        return without_secrets(self.catalog.request(request.id, now=self._clock()).request)

    def _reschedule(self, request_id: str, configuration: RequestCacheConfiguration) -> None:
        facts: Facts = self.catalog.request(request_id, now=self._clock()).facts
        due = configuration.recaching_strategy.next_due(facts)
        self.catalog.configure(request_id, configuration, next_due_at=due)

    def request(self, url: str) -> Request:
        """The one Request of *url*, which may also be a Request's id. `UnknownRequest`; `InvalidValue` naming
        the ids when several have that URL."""
        if is_request_id(url):
            return without_secrets(self.catalog.request(url, now=self._clock()).request)
        return without_secrets(the_one(self.catalog.requests_of_url(request_url(url)), url))

    def _reread(self, response: Response) -> Response:
        found = self.catalog.response(response.id, now=self._clock())
        return response if found is None else found

    def progress(self, request_id: str) -> Progress:
        """How far the fetch of a Request is, by its watermark, whichever process runs it."""
        return progress_of(self.partials.mark_at(request_id, fence=self.frontier.fence(request_id)))

    def with_progress(self, response: Response) -> Response:
        """*response*; under way, with how far it is by its watermark. Blocks."""
        if response.status == "in_progress":
            progress, stats = self.progress(response.request_id), response.download_stats
            stats.downloaded_bytes, stats.total_bytes_to_download = progress.downloaded_bytes, progress.total_bytes
            if stats.download_start_time_unix_ts is not None:
                elapsed = max(0.0, self._clock() - stats.download_start_time_unix_ts)
                stats.download_running_duration_sec = elapsed
                stats.avg_bytes_per_sec = progress.downloaded_bytes / elapsed if elapsed else 0.0
        return response

    # --- the whole folder ------------------------------------------------------------------------------

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Read every stored byte; what is damaged is never served again, and fetched anew when it is asked
        for. *progress* gets (bytes read, bytes in all)."""
        return self._house.verify(progress=progress)

    def verify_next(self, *, after: str | None, for_s: float) -> tuple[VerifyReport, str | None, int]:
        """`verify` piece by piece; see `Housekeeping.verify_next`."""
        return self._house.verify_next(after=after, for_s=for_s)

    def gc(self, *, dry_run: bool = False) -> GcReport:
        """Drop what retention, the quota, a day's undo and the sweep say; with *dry_run*, only tell."""
        over = self.uploads.overdue()
        if not dry_run:
            self.wakeups.sweep()
            self.uploads.expire()
        report = self._house.gc(dry_run=dry_run)
        report.items += [GcItem("upload", uid, None, size, "its time is over") for uid, size in over]
        report.freed_bytes += sum(size for _, size in over)
        return report

    def usage(self) -> StorageUsage:
        """What the folder holds."""
        used: Usage = self.catalog.usage(now=self._clock())
        files = [self.folder / name for name in ("catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm")]
        return StorageUsage(
            requests=used.requests,
            versions=used.versions,
            pinned_versions=used.pinned_versions,
            deleted_versions=used.deleted_versions,
            contents=used.contents,
            content_bytes=used.content_bytes,
            logical_bytes=used.logical_bytes,
            partial_bytes=sum(size for _, _, size in self.partials.leftovers()),
            upload_bytes=self.uploads.used_bytes(),
            catalog_bytes=sum(file.stat().st_size for file in files if file.exists()),
            quota_bytes=self.settings.quota_bytes,
            free_bytes=shutil.disk_usage(self.folder).free,
        )

    # --- uploads ---------------------------------------------------------------------------------------

    def put(
        self,
        file: Source,
        *,
        name: str | None = None,
        tag: str | None = None,
        progress: OnSending | None = None,
    ) -> Response:
        """Keep a file, or what a binary stream gives, as the newest version of *name*, by default the file's own;
        `ready` on return, at ``/r/forebay:<name>``.

        The file stays where it is and shares its blocks with the copy where the file system can do that. *progress*
        is called in the caller's thread. Raises `FileChanged` when it is written meanwhile, `InvalidValue` for what
        is no file that can be read and for a name that cannot be, `UploadTooLarge`, `DiskReserved`.
        """
        with parcel(file, name=name, tag=tag) as ready:
            return self.publish(ingest(self.uploads, ready, progress), ready.name, tag)

    def publish(self, upload: Upload, name: str, tag: str | None, *, group: str | None = None) -> Response:
        """See `Upload.publish`; in *group*."""
        spec = RequestSpec(
            url=upload_url(name),
            group_name=group or "default",
            cache_configuration=RequestCacheConfiguration(recaching_strategy=Never()),
        )
        published = Published(
            upload.uploadUid,
            upload.sha256,
            upload.totalSize,
            upload.media_type,
            safe_filename(upload.fileName) or safe_filename(name) or "content",
        )
        checked = None if tag is None else check_tag(tag)
        finished = publish(self._database, spec, published, tag=checked, now=self._clock())
        self._house.after([finished])
        response = (
            None if finished.response_id is None else self.catalog.response(finished.response_id, now=self._clock())
        )
        if response is None:
            raise UnknownVersion(spec.url, wanted=f"version {finished.lease.version} any more")
        return response

    # --- functions -------------------------------------------------------------------------------------

    @overload
    def expose(self, call: F, /) -> F: ...
    @overload
    def expose(
        self,
        call: None = None,
        /,
        *,
        name: str | None = None,
        get: bool = False,
        requires: str = "call",
        time_limit_s: float | None = None,
    ) -> Callable[[F], F]: ...
    def expose(
        self,
        call: F | None = None,
        /,
        *,
        name: str | None = None,
        get: bool = False,
        requires: str = "call",
        time_limit_s: float | None = None,
    ) -> Any:
        """Have clients of a server call a function, at ``/v1/call/{name}``: a decorator. The function itself stays
        as it is.

        *name*: the function's, unless given; may have ``/`` in it. Without *get* only POST calls it. *requires*:
        the scope that a token must have. *time_limit_s*: until its answer has begun; the server's, unless given.
        Raises `InvalidValue`, also for a parameter that nobody could fill.
        """

        def note(call: F) -> F:
            self.functions.expose(call, name=name, get=get, requires=requires, time_limit_s=time_limit_s)
            return call

        return note if call is None else note(call)

    def handle(
        self,
        path: str,
        *,
        verbs: Sequence[str] = ("GET",),
        requires: str = "call",
        time_limit_s: float | None = None,
    ) -> Callable[[F], F]:
        """Have a function answer at a path of its own, such as ``/start/{rest:path}``: a decorator. What stands in
        the places of *path* fills parameters of those names. No path of the server's own can be had. The rest is as
        with `expose`."""

        def note(call: F) -> F:
            self.functions.handle(call, path, verbs=verbs, requires=requires, time_limit_s=time_limit_s)
            return call

        return note

    def asgi(self, **settings: Any) -> Mounted:
        """The whole server as an ASGI application, to be mounted into another: ``app.mount("/bay", bay.asgi())``.

        It starts at the first request, and ends when this is closed; what it fetches, it fetches in this process.
        *settings* are those that only a server has (`forebay.settings.ServerSettings`); raises `InvalidValue` for
        others. It answers for loopback names only, unless ``allow_hosts`` names others: without a token, whoever
        reaches it may do everything, and reach through it what this may (`allow_private`).
        """
        from forebay.server.mounted import Mounted

        return Mounted(self, **settings)

    def at_close(self, call: Callable[[], None]) -> None:
        """Have *call* called when this is closed, before anything else is."""
        self._at_close.append(call)

    # --- due work --------------------------------------------------------------------------------------

    def scheduler(self) -> Scheduler:
        """What fetches due Requests by itself while it runs: start it, stop it. A server has one."""
        # More than can run: the next one is ready when a slot is free.
        return Scheduler(
            self.frontier,
            submit=self._submit_due,
            clock=self._clock,
            room=4 * self.settings.max_downloads,
            room_per_host=4 * self.settings.max_downloads_per_host,
        )

    def tend(self) -> None:
        """What is to be done now and then while a server runs: free what processes had that are gone, so that
        their Requests are due, or somebody's who waits; and drop duplicates and uploads after their time."""
        self._house.bury_the_dead()
        self._house.evict_duplicates()
        self.uploads.expire()

    def write_touches(self) -> None:
        """Write the times of use that have gathered."""
        self._touches.write()

    def _submit_due(self, request_ids: Sequence[str], urgent: bool) -> list[Ticket]:
        jobs = []
        for request_id in request_ids:
            job = self.job(self.catalog.request(request_id, now=self._clock()))
            jobs.append(replace(job, urgent=True) if urgent else job)
        return self._fetcher.submit(jobs)


def extension_for(media_type: str) -> str | None:
    """What a file of *media_type* is usually called: ``.pdf``; None when nothing is usual."""
    return mimetypes.guess_extension(media_type.partition(";")[0].strip())
