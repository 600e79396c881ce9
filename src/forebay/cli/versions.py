"""`forebay ls`, `log` and `show`: what is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from forebay.cli import show
from forebay.cli.options import Data, Json, Server, Url, Version, open_known
from forebay.errors import ForebayError

if TYPE_CHECKING:
    from forebay.bay import Forebay
    from forebay.client.remote import RemoteForebay
    from forebay.models import Request, Response


def list_urls(context: typer.Context, data: Data = None, server: Server = None, as_json: Json = False) -> int:
    """List the URLs that are kept.

    Of each: size and age of the latest version, how many versions, how many of them pinned.

    Example: forebay ls --json | jq -r .url
    """
    from forebay.core.urls import show_url

    with open_known(context, data, server) as bay:
        every = ((request, bay.versions(request.id)) for request in bay.requests())
        # A URL that was removed is no longer kept, though it can still be had back.
        found = [(request, versions) for request, versions in every if versions]
    if as_json:
        for request, versions in found:
            show.emit_json(_line(request, versions))
        return show.EXIT_DONE
    rows = []
    for request, versions in found:
        ready = [version for version in versions if version.status == "ready"]
        rows.append((
            show_url(request.url),
            show.size_text(ready[0].content_attributes.content_size_bytes if ready else None),
            str(len(ready)),
            show.age_text(ready[0].cached_datetime_utc) if ready else versions[0].status,
            str(sum(version.pinned for version in ready)),
        ))  # fmt: skip
    if not rows:
        show.note("nothing is kept yet; `forebay get URL` fetches and keeps")
    show.emit_table(("URL", "SIZE", "VERSIONS", "LATEST", "PINNED"), rows, right=("SIZE", "VERSIONS", "PINNED"))
    return show.EXIT_DONE


def _line(request: Request, versions: list[Response]) -> dict[str, Any]:
    """One URL of `ls`. Header fields, parameters and bodies are left out: they may hold secrets."""
    from forebay.core.urls import show_url

    ready = [version for version in versions if version.status == "ready"]
    return {
        "url": show_url(request.url),
        "request_id": request.id,
        "http_method": request.http_method,
        "group_name": request.group_name,
        "versions": len(ready),
        "pinned_versions": sum(version.pinned for version in ready),
        "latest": ready[0].model_dump(mode="json") if ready else None,
    }


def log(
    context: typer.Context,
    url: Url,
    data: Data = None,
    server: Server = None,
    as_json: Json = False,
    deleted: Annotated[
        bool, typer.Option("--deleted", help="List those that `forebay rm --undo` can have back.")
    ] = False,
) -> int:
    """List the versions of a URL, the newest first.

    Of each: status, size, age, hash, tags, pin, and why it failed.

    Example: forebay log https://www.rfc-editor.org/rfc/rfc9110.txt
    """
    with open_known(context, data, server) as bay:
        versions = bay.versions(url, deleted=deleted)
    if as_json:
        for version in versions:
            show.emit_json(version.model_dump(mode="json"))
        return show.EXIT_DONE
    if not versions:
        more = "" if deleted else "; `forebay log --deleted` shows those that were removed"
        show.note("no version is there" + more)
    show.emit_table(
        ("VERSION", "STATUS", "SIZE", "AGE", "SHA256", "TAGS", "PINNED", "ERROR"),
        [_row(version) for version in versions],
        right=("SIZE",),
    )
    return show.EXIT_DONE


def _row(version: Response) -> tuple[str, ...]:
    attributes, stats = version.content_attributes, version.download_stats
    size = stats.downloaded_bytes if version.status == "in_progress" else attributes.content_size_bytes
    return (
        version.version,
        version.status,
        show.size_text(size),
        show.age_text(version.cached_datetime_utc or version.request_datetime_utc),
        (attributes.sha256 or "-")[:16],
        ",".join(version.tags) or "-",
        _pin_text(version),
        _error_text(version) or "-",
    )


def _pin_text(version: Response) -> str:
    if not version.pinned:
        return "-"
    return "yes" if version.pinned_until_utc is None else f"until {show.moment_text(version.pinned_until_utc)}"


def _error_text(version: Response) -> str | None:
    stats = version.download_stats
    if stats.error is None:
        return None
    return stats.error if stats.error_code is None else f"{stats.error} [{stats.error_code}]"


def show_version(
    context: typer.Context,
    url: Url,
    version: Version = None,
    tag: Annotated[
        str | None,
        typer.Option("--tag", metavar="TAG", show_default=False, help="The newest version with this tag."),
    ] = None,
    data: Data = None,
    server: Server = None,
    as_json: Json = False,
) -> int:
    """Show everything about one version of a URL.

    Example: forebay show https://www.rfc-editor.org/rfc/rfc9110.txt --tag published
    """
    with open_known(context, data, server) as bay:
        found = bay.find(url, version=version, tag=tag)
        path = _path(bay, found)
    if as_json:
        show.emit_json(found.model_dump(mode="json") | {"path": path})
    else:
        show.emit_facts(_facts(found, path))
    return show.EXIT_DONE


def _path(bay: Forebay | RemoteForebay, version: Response) -> str | None:
    from forebay.bay import Forebay

    if version.content_attributes.sha256 is None:
        return None
    try:
        if isinstance(bay, Forebay):
            return str(bay.path(version))
        path = bay.cached(version)  # to be shown, it need not be transferred
        return None if path is None else str(path)
    except ForebayError as error:
        show.warn(f"{error} [{error.code}]")
        return None


def _facts(version: Response, path: str | None) -> dict[str, str]:
    attributes, stats = version.content_attributes, version.download_stats
    size, modified = attributes.content_size_bytes, attributes.last_modified_datetime_utc
    facts = {
        "url": version.url,
        "final url": stats.final_url if stats.final_url != version.url else None,
        "version": version.version,
        "previous": version.previous_version,
        "next": version.next_version,
        "status": version.status,
        "error": _error_text(version),
        "kept": f"{show.moment_text(version.cached_datetime_utc)} ({show.age_text(version.cached_datetime_utc)})",
        "path": path,
        "filename": attributes.filename,
        "size": None if size is None else f"{show.size_text(size)} ({size:,} bytes)",
        "media type": attributes.media_type,
        "coding": attributes.content_encoding,
        "sha256": attributes.sha256,
        "hash": version.content_hash_hex if version.content_hash_hex != attributes.sha256 else None,
        "etag": attributes.etag,
        "modified": None if modified is None else show.moment_text(modified),
        "tags": ", ".join(version.tags),
        "pinned": _pin_text(version) if version.pinned else None,
        "download": _download_text(version),
    }
    return {name: value for name, value in facts.items() if value}


def _download_text(version: Response) -> str:
    stats = version.download_stats
    text = f"{show.size_text(stats.downloaded_bytes)} in {show.duration_text(stats.download_running_duration_sec)}"
    text += f", {stats.attempts} attempt{'' if stats.attempts == 1 else 's'}"
    return text + (f", {show.size_text(stats.resumed_bytes)} resumed" if stats.resumed_bytes else "")
