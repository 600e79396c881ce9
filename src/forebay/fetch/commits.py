"""From how transfers ended to what the catalog is told: the bytes of the whole ones are adopted by the store first
(DESIGN.md, invariant 2)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, assert_never

from forebay.catalog.outcomes import Broke, Brought, Confirmed, Content, Outcome, Stats
from forebay.content.store import ContentStore, SweepableStore
from forebay.core.filenames import choose_filename
from forebay.errors import ForebayError, StorageError
from forebay.fetch.transfer import End, GaveUp, StillCurrent, Suspended, Transfer, Whole

log = logging.getLogger(__name__)

NO_STATS = Stats(started_at=0.0)
"""Of a transfer that never ran."""


class LocalStore(ContentStore, SweepableStore, Protocol):
    """What takes content in, and gives up what nobody names."""


class Commits:
    """Makes outcomes for one folder. *extension_for*: what a file of a media type is usually called; *known*: the
    contents, of those named, that the catalog has."""

    def __init__(
        self,
        store: LocalStore,
        extension_for: Callable[[str], str | None],
        *,
        known: Callable[[Iterable[str]], set[str]],
    ) -> None:
        self._store, self._extension_for, self._known = store, extension_for, known

    @contextmanager
    def committing(self, ended: list[tuple[Transfer, End]]) -> Iterator[list[tuple[Outcome, ForebayError | None]]]:
        """The outcomes of what ended, the bytes of the whole ones adopted by the store; held against the
        sweep until the catalog has them too."""
        if not any(isinstance(end, Whole) for _, end in ended):
            yield [self._outcome(transfer, end) for transfer, end in ended if not isinstance(end, Suspended)]
            return
        with self._store.committing():
            lost = self._adopt([(t, end) for t, end in ended if isinstance(end, Whole)])
            outcomes = []
            for transfer, end in ended:
                if transfer.job.request_id in lost:
                    end = GaveUp(lost[transfer.job.request_id], end.stats if isinstance(end, Whole) else NO_STATS)
                if not isinstance(end, Suspended):
                    outcomes.append(self._outcome(transfer, end))
            yield outcomes

    def disown(self, ended: Sequence[End]) -> None:
        """Remove from the store what was adopted of *ended*, whose leases were lost: no row names it, unless
        something else has the same content."""
        digests = {end.landed.digests["sha256"] for end in ended if isinstance(end, Whole)}
        if not digests:
            return
        try:
            with self._store.sweeping():
                for sha256 in digests - self._known(digests):
                    self._store.delete(sha256)
        except StorageError as error:  # `gc` finds it
            log.warning("what was fetched for nobody is still in the store: %s", error)

    def _adopt(self, whole: list[tuple[Transfer, Whole]]) -> dict[str, StorageError]:
        """Name the bytes in the store; whose could not be, by request id."""
        files = [
            (end.landed.partial.path, end.landed.digests["sha256"], end.landed.partial.marked) for _, end in whole
        ]
        errors = self._store.adopt(files)
        return {
            transfer.job.request_id: error
            for (transfer, _), error in zip(whole, errors, strict=True)
            if error is not None
        }

    def _outcome(
        self, transfer: Transfer, end: Whole | StillCurrent | GaveUp
    ) -> tuple[Outcome, ForebayError | None]:
        match end:
            case StillCurrent(validated, stats):
                assert transfer.job.stored is not None  # only what was asked for can be confirmed
                return Confirmed(transfer.lease, stats, transfer.job.stored.version, validated), None
            case GaveUp(error, stats):
                # Whoever may read the version reads this, in other processes and over HTTP.
                text = error.outward if isinstance(error, StorageError) else str(error)
                return Broke(transfer.lease, stats, error.code, text), error
            case Whole(landed, got, stats):
                content = Content(
                    sha256=landed.digests["sha256"],
                    size_bytes=landed.size_bytes,
                    hash_hex=landed.digests[transfer.job.hash_name],
                    media_type=got.media_type,
                    etag=got.etag,
                    last_modified=got.last_modified,
                    filename=choose_filename(
                        content_disposition=got.content_disposition,
                        url=transfer.job.ask.url,
                        media_type=got.media_type,
                        extension_for=self._extension_for,
                    ),
                    content_disposition=got.content_disposition,
                    content_encoding=got.content_encoding,
                )
                return Brought(transfer.lease, stats, content, landed.partial.generation), None
            case _:
                assert_never(end)
