"""`forebay gc`, `verify` and `du`: the folder as a whole."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import Annotated

import typer

from forebay.cli import show
from forebay.cli.options import Data, Json, Server, open_known


def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go, and why.")] = False,
    data: Data = None,
    server: Server = None,
    as_json: Json = False,
) -> int:
    """Drop what nothing needs any more, and say why.

    That is: versions beyond their limits or the quota, what was removed more than a day ago, content that no
    version has any more, and downloads that nobody resumed.

    Example: forebay gc --dry-run
    """
    with open_known(context, data, server) as bay:
        report = bay.gc(dry_run=dry_run)
    if as_json:
        show.emit_json({"dry_run": dry_run, **asdict(report)})
        return show.EXIT_DONE
    show.emit_table(
        ("KIND", "NAME", "SIZE", "URL", "REASON"),
        [
            (item.kind, item.name, show.size_text(item.size_bytes), item.url or "-", item.reason)
            for item in report.items
        ],
        right=("SIZE",),
    )
    show.say(f"{'would free' if dry_run else 'freed'} {show.size_text(report.freed_bytes)}")
    if report.evicted_bytes:
        show.note(f"versions of {show.size_text(report.evicted_bytes)} more: freed when the grace time has passed")
    return show.EXIT_DONE


def verify(context: typer.Context, data: Data = None, server: Server = None, as_json: Json = False) -> int:
    """Read every stored byte and compare it with its hash.

    What is damaged is named, never served again, and fetched anew when it is asked for; the exit code is then 2.

    Example: forebay verify
    """
    with ExitStack() as stack:
        bay = open_known(context, data, server)
        stack.callback(bay.close)
        progress = None
        if show.draws_bars():
            from forebay.cli.bars import CheckBar

            progress = stack.enter_context(CheckBar("verify")).update
        report = bay.verify(progress=progress)
    if as_json:
        rotten = [
            {
                "sha256": rot.sha256,
                "found": rot.found,
                "responses": [response.model_dump(mode="json") for response in rot.responses],
            }
            for rot in report.rotten
        ]
        show.emit_json({"checked": report.checked, "checked_bytes": report.checked_bytes, "rotten": rotten})
    else:
        show.emit_table(
            ("SHA256", "FOUND", "VERSION", "URL"),
            [(rot.sha256, rot.found, r.version, r.url) for rot in report.rotten for r in rot.responses],
        )
    verdict = "all right" if not report.rotten else f"{len(report.rotten)} damaged"
    show.say(f"checked {report.checked} contents, {show.size_text(report.checked_bytes)}: {verdict}")
    if not report.rotten:
        return show.EXIT_DONE
    show.hint("`forebay get URL` fetches what is damaged anew")
    return show.EXIT_OURS


def du(context: typer.Context, data: Data = None, server: Server = None, as_json: Json = False) -> int:
    """Show how much is kept, and what space it takes: equal content is stored once.

    Example: forebay du
    """
    from forebay.bay import Forebay

    with open_known(context, data, server) as bay:
        where = {"folder": str(bay.folder)} if isinstance(bay, Forebay) else {"server": bay.server}
        used = bay.usage()
    if as_json:
        show.emit_json({**where, **asdict(used)})
        return show.EXIT_DONE
    show.emit_facts({
        **where,
        "URLs": str(used.requests),
        "versions": f"{used.versions} ({used.pinned_versions} pinned, {used.deleted_versions} removed)",
        "content": f"{show.size_text(used.content_bytes)} in {used.contents} files",
        "versions' sizes": show.size_text(used.logical_bytes),
        "unfinished": show.size_text(used.partial_bytes),
        "catalog": show.size_text(used.catalog_bytes),
        "quota": "none" if used.quota_bytes is None else show.size_text(used.quota_bytes),
        "free on disk": show.size_text(used.free_bytes),
    })  # fmt: skip
    return show.EXIT_DONE
