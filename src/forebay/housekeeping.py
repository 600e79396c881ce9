"""What goes and what stays: retention, the quota, the sweep, and the check of every stored byte."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from forebay.catalog.catalog import UNDO_SECONDS, Catalog, ContentRow
from forebay.catalog.frontier import Frontier
from forebay.catalog.outcomes import Finished
from forebay.content.files import FileContentStore
from forebay.content.partial import Partials
from forebay.core.retention import DUPLICATE_LIFETIME_S, Eviction, Held, evictions, evictions_for_quota
from forebay.core.urls import show_url
from forebay.fetch.owner import Owner
from forebay.reports import GcItem, GcReport, Rot, VerifyReport

_SWEEP_EVERY_S = 60.0
# Under a quota there is no grace: later than any time that a content was orphaned at.
_AT_ONCE = float(2**40)


class Touches:
    """Times of use, gathered and written in batches: a hit writes nothing."""

    _MANY = 4096

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._used: dict[str, float] = {}
        self._requested: dict[str, float] = {}
        self._lock = threading.Lock()

    def note(self, response_id: str, request_id: str, *, now: float) -> None:
        """This version of that Request was asked for."""
        with self._lock:
            self._used[response_id] = now
            self._requested[request_id] = now
        if len(self._used) >= self._MANY:
            self.write()

    def write(self) -> None:
        """Write what has been gathered."""
        with self._lock:
            used, requested = self._used, self._requested
            self._used, self._requested = {}, {}
        if used or requested:
            self._catalog.touch(used=used, requested=requested)


class Housekeeping:
    """Keeps one folder within its bounds."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        frontier: Frontier,
        store: FileContentStore,
        partials: Partials,
        owner: Owner,
        clock: Callable[[], float],
        quota_bytes: int | None,
        sweep_grace_s: float,
        partial_keep_s: float,
        touches: Touches,
        tell: Callable[[str], None],
    ) -> None:
        self._touches = touches
        self._catalog, self._frontier, self._store = catalog, frontier, store
        self._partials, self._owner, self._clock = partials, owner, clock
        self._quota_bytes, self._grace_s, self._partial_keep_s = quota_bytes, sweep_grace_s, partial_keep_s
        self._tell = tell
        self._swept_at = float("-inf")

    # --- after each commit -----------------------------------------------------------------------------

    def after(self, finished: Sequence[Finished]) -> None:
        """Keep the Requests of *finished* within their limits, and the folder within its quota."""
        for item in finished:
            if item.crowded and item.status != "lease_lost":
                self.retain(item.lease.request_id)
        if self._quota_bytes is not None and any(item.status == "ready" for item in finished):
            keep = frozenset(item.response_id for item in finished if item.response_id is not None)
            for url, eviction in self.enforce_quota(keep=keep):
                self._tell(f"evicted {show_url(url)} {eviction.version}: {eviction.reason}")
            used = self._used_bytes()
            if used > self._quota_bytes:
                self._tell(
                    f"{used} bytes are used of a quota of {self._quota_bytes}, and what is left is pinned or was "
                    "fetched just now: unpin or remove versions, or raise the quota"
                )
        self._sweep_now_and_then()

    def _sweep_now_and_then(self) -> None:
        """What was evicted takes no space for longer than the grace time, without anybody calling `gc`."""
        now = self._clock()
        if not self._swept_at <= now < self._swept_at + _SWEEP_EVERY_S:
            self._swept_at = now
            self._sweep_contents(before=now - self._grace_s, dry_run=False)

    def retain(self, request_id: str) -> list[Eviction]:
        """Evict what one Request has too much of."""
        versions = self._catalog.held(request_id).get(request_id, [])
        gone = self._too_many(request_id, versions)
        if gone:
            self._catalog.evict((item.id for item in gone), now=self._clock())
        pinned = {held.id for held in versions if held.pinned_at(self._clock())}
        for item in gone:
            if item.id in pinned:
                self._tell(f"evicted the pinned version {item.version}: {item.reason}")
        return gone

    def _too_many(self, request_id: str, versions: Sequence[Held]) -> list[Eviction]:
        now = self._clock()
        policy = self._catalog.request(request_id, now=now).request.cache_configuration
        return evictions(
            versions,
            max_unpinned=policy.max_cached_unpinned_versions,
            max_pinned=policy.max_cached_pinned_versions,
            now=now,
        )

    def evict_duplicates(self) -> None:
        """Evict those whose time is over, of all Requests."""
        now = self._clock()
        self._catalog.evict_duplicates(before=now - DUPLICATE_LIFETIME_S, now=now)

    def enforce_quota(
        self, *, keep: frozenset[str] = frozenset(), dry_run: bool = False
    ) -> list[tuple[str, Eviction]]:
        """Bring the folder under its quota: what was deleted goes first, then the least useful versions."""
        quota = self._quota_bytes
        if quota is None or self._used_bytes() <= quota:
            return []
        self._touches.write()  # what was used a moment ago is not the least useful
        if not dry_run:
            self._catalog.purge_deleted(before=self._clock(), now=self._clock())
            self._sweep_contents(before=_AT_ONCE, dry_run=False)
        gone: list[tuple[str, Eviction]] = []
        used = self._used_bytes()
        # Versions may share content: what evicting frees is only known when the sweep has looked.
        while used > quota:
            now = self._clock()
            held = self._catalog.held()
            names = {h.id: request_id for request_id, versions in held.items() for h in versions}
            every = [h for versions in held.values() for h in versions]
            chosen = evictions_for_quota(every, used_bytes=used, quota_bytes=quota, now=now, keep=keep)
            if not chosen:
                break
            urls = self._catalog.configurations()
            gone += [(urls[names[item.id]][0], item) for item in chosen]
            if dry_run:
                break
            self._catalog.evict((item.id for item in chosen), now=now)
            self._sweep_contents(before=_AT_ONCE, dry_run=False)
            # It may have freed nothing, where another version shares the content: then the next ones go.
            used = self._used_bytes()
        return gone

    def _used_bytes(self) -> int:
        return self._catalog.usage(now=self._clock()).content_bytes

    # --- gc --------------------------------------------------------------------------------------------

    def gc(self, *, dry_run: bool = False) -> GcReport:
        """Drop everything whose time has come. With *dry_run*, only say what."""
        report, now = GcReport(), self._clock()
        urls = self._catalog.configurations()
        going: set[str] = set()
        for request_id, versions in self._catalog.held().items():
            gone = self._too_many(request_id, versions)
            url = show_url(urls[request_id][0])
            report.items += [GcItem("version", g.version, url, g.size_bytes, g.reason) for g in gone]
            report.evicted_bytes += sum(g.size_bytes for g in gone)
            going.update(g.id for g in gone)
            if not dry_run:
                self._catalog.evict((item.id for item in gone), now=now)
        for response in self._catalog.deleted_before(now - UNDO_SECONDS):
            size = response.content_attributes.content_size_bytes or 0
            reason = "removed more than a day ago"
            report.items.append(GcItem("deleted", response.version, response.url, size, reason))
            report.evicted_bytes += size
        if not dry_run:
            self._catalog.purge_deleted(before=now - UNDO_SECONDS, now=now)
        listed = frozenset(going)
        for url, item in self.enforce_quota(dry_run=dry_run, keep=listed):
            report.items.append(GcItem("version", item.version, show_url(url), item.size_bytes, item.reason))
        for found in (
            *self._sweep_contents(before=now - self._grace_s, dry_run=dry_run),
            *self._sweep_files(before=now - self._grace_s, dry_run=dry_run),
            *self._sweep_partials(now=now, dry_run=dry_run),
        ):
            report.items.append(found)
            report.freed_bytes += found.size_bytes
        if not dry_run:
            self.bury_the_dead()
        return report

    def _sweep_contents(self, *, before: float, dry_run: bool) -> list[GcItem]:
        """Contents that no version has any more."""
        out: list[GcItem] = []
        for content in self._catalog.unreferenced(before=before):
            if not dry_run:
                with self._store.sweeping():
                    if not self._catalog.forget_content(content.sha256):
                        continue  # a version has it by now
                    self._store.delete(content.sha256)
            out.append(GcItem("content", content.sha256, None, content.size_bytes, "no version has it"))
        return out

    def _sweep_files(self, *, before: float, dry_run: bool) -> list[GcItem]:
        """Files without a row: a crash came between the rename and the commit."""
        old = {sha256: size for sha256, at, size in self._store.stored() if at < before}
        orphans = old.keys() - self._catalog.known_contents(old)
        out: list[GcItem] = []
        for sha256 in sorted(orphans):
            if not dry_run:
                with self._store.sweeping():
                    if self._catalog.known_contents([sha256]):
                        continue
                    self._store.delete(sha256)
            out.append(GcItem("content", sha256, None, old[sha256], "left over from a crash"))
        return out

    def _sweep_partials(self, *, now: float, dry_run: bool) -> list[GcItem]:
        out: list[GcItem] = []
        for key, written_at, size in self._partials.leftovers():
            if now - written_at < self._partial_keep_s or self._frontier.lease_of(key) is not None:
                continue
            reason = f"an unfinished download, not resumed for {self._partial_keep_s / 86400:.0f} days"
            out.append(GcItem("partial", key, None, size, reason))
            if not dry_run:
                self._partials.discard(key)
        return out

    def bury_the_dead(self) -> None:
        """Take everything from owners that are gone."""
        for owner in self._owner.dead():
            self._frontier.reap(owner)
            self._owner.bury(owner)

    # --- verify ----------------------------------------------------------------------------------------

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> VerifyReport:
        """Read every stored byte. What does not hash to its address is marked: it is never served again, and
        its Requests are due. *progress* gets (bytes read, bytes in all)."""
        report = VerifyReport()
        contents, total = self._to_verify()
        for content in contents:
            self._check(content, report)
            if progress is not None:
                progress(report.checked_bytes, total)
        return report

    def verify_next(self, *, after: str | None, for_s: float) -> tuple[VerifyReport, str | None, int]:
        """`verify` the contents whose digests come after *after*, for about *for_s*, at least one: the report, the
        last digest if there are more, and the bytes of all contents."""
        report, until = VerifyReport(), self._clock() + for_s
        contents, total = self._to_verify()
        left = [content for content in contents if after is None or content.sha256 > after]
        for number, content in enumerate(left, 1):
            self._check(content, report)
            if self._clock() >= until and number < len(left):
                return report, content.sha256, total
        return report, None, total

    def _to_verify(self) -> tuple[list[ContentRow], int]:
        contents = sorted(
            (content for content in self._catalog.contents() if not content.rotten),
            key=lambda content: content.sha256,
        )
        return contents, sum(content.size_bytes for content in contents)

    def _check(self, content: ContentRow, report: VerifyReport) -> None:
        found = self._store.verify(content.sha256, size_bytes=content.size_bytes)
        report.checked += 1
        report.checked_bytes += content.size_bytes
        if found is not None and self._catalog.known_contents([content.sha256]):
            sentence = f"content {content.sha256} is damaged: {found}"
            responses = self._catalog.mark_rotten(content.sha256, found=sentence, now=self._clock())
            report.rotten.append(Rot(content.sha256, found, responses))
