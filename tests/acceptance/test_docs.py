"""The documentation does what it says: its examples run, its tables are the code's, its links lead somewhere.

Longer than our guide size: the reference tables that are derived from the code have their makers here.

How a page is executed is described in CONTRIBUTING.md. Run with ``UPDATE_DOCS=1`` to write the derived tables
into the pages instead of comparing them.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import itertools
import mimetypes
import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import forebay
import origin as origin_module
from forebay import Forebay, errors, models
from forebay.cli import app
from forebay.cli.show import exit_code
from forebay.server.api import document_of, make_api
from forebay.server.basin import Basin
from forebay.settings import (
    RemoteSettings,
    ServerSettings,
    Settings,
    default_cache,
    default_data,
    default_workers,
)
from origin import Exchange, Origin, Resource, Status

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINKED = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
# What readers see as the origin. In a test all of them are the local one.
SERVER = "http://127.0.0.1:8008"
BASES = ("https://www.rfc-editor.org", "https://data.example.org", "http://127.0.0.1:8000")
# The user data folder as the pages show it.
SHOWN_DATA = "/home/you/.local/share/forebay"
SHOWN_CACHE = "/home/you/.cache/forebay"
VARYING = [
    (re.compile(pattern), word)
    for pattern, word in (
        (r"\b\d{8}T\d{12}Z\b", "VERSION"),
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\b", "MOMENT"),
        (r"\b(?:just now|\d+ (?:s|min|h|d|y) ago)\b", "AGE"),
        (r"\b[\d.]+ m?s\b(?! ago)", "DURATION"),
        (r" {2,}", " "),
    )
]


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- what is on a page ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """Something to execute, or a block that only shows. *kind*: ``origin`` for a hidden comment, else the
    language of a fenced block; *words* are what follows the language."""

    kind: str
    words: tuple[str, ...]
    text: str
    line: int


_STEP = re.compile(
    r"^<!-- origin:(?P<code>.*?)-->[ ]*$"
    r"|^(?P<indent>[ ]*)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$",
    re.DOTALL | re.MULTILINE,
)


def steps_of(page: Path) -> list[Step]:
    """The hidden comments and fenced blocks of *page*, in order."""
    source, steps = page.read_text("utf-8"), []
    for found in _STEP.finditer(source):
        line = source.count("\n", 0, found.start()) + 1
        if found["code"] is not None:
            steps.append(Step("origin", (), inspect.cleandoc(found["code"]), line))
            continue
        kind, *words = found["info"].split() or [""]
        body = re.sub(rf"^{found['indent']}", "", found["body"], flags=re.MULTILINE)
        steps.append(Step(kind, tuple(words), body, line + 1))
    return steps


def _runs(step: Step) -> bool:
    return step.kind in ("python", "console") and "no-run" not in step.words


# --- executing a page -------------------------------------------------------------------------------------


class Folder:
    """Serves the files of a folder as ``python3 -m http.server`` does: Last-Modified, no ETag, no ranges."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: dict[Path, tuple[bytes, datetime]] = {}

    def __call__(self, exchange: Exchange) -> None:
        file = self._root / exchange.seen.path.lstrip("/")
        if not file.is_file():
            Status(404, b"not found\n")(exchange)
            return
        body = file.read_bytes()
        modified = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        before = self._seen.get(file)
        # A person takes longer than a second between two edits; a test does not.
        if before is not None and before[0] != body:
            modified = max(modified, before[1] + timedelta(seconds=1))
        self._seen[file] = (body, modified)
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        Resource(body, etag=None, last_modified=modified, media_type=kind, accept_ranges=False)(exchange)


class Reader:
    """Does in *folder* what a reader of a page would do, with *origin* in place of every origin."""

    def __init__(
        self, page: Path, origin: Origin, folder: Path, env: dict[str, str], serve: Callable[..., Any]
    ) -> None:
        self.page, self.origin, self.folder, self.env = page, origin, folder, env
        self._serve, self._server = serve, SERVER
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.hidden: dict[str, Any] = {
            **vars(origin_module), "origin": origin, "serve_folder": self._serve_folder,
            "start_server": self._start_server,
        }  # fmt: skip
        self.code = 0

    def _serve_folder(self, name: str) -> None:
        self.origin.serve("*", Folder(self.folder / name))

    def _start_server(self, *options: str) -> None:
        """What a reader has started before, at the address that pages name."""
        self._server = self._serve(*options).url

    def here(self, text: str) -> str:
        """*text* with the local origin in place of the one that it names, and with the server's address."""
        text = text.replace(SERVER, self._server)
        for base in BASES:
            text = text.replace(base, self.origin.url(""))
        return text

    def read(self) -> None:
        """Execute every step of the page."""
        steps = steps_of(self.page)
        for number, step in enumerate(steps):
            if step.kind == "origin":
                exec(self._compiled(step, step.text), self.hidden)
            elif _runs(step) and step.kind == "console":
                self._console(step)
            elif step.kind == "python" and step.words and step.words[0].startswith("file="):
                (self.folder / step.words[0].removeprefix("file=")).write_text(self.here(step.text))
            elif _runs(step):
                following = steps[number + 1] if number + 1 < len(steps) else None
                shown = following.text if following is not None and self._is_output(step, following) else None
                self._python(step, shown)

    def _is_output(self, step: Step, following: Step) -> bool:
        end = step.line + step.text.count("\n") + 1
        return following.kind == "text" and following.line - 1 - end <= 1

    def _compiled(self, step: Step, code: str) -> Any:
        # Blank lines in front: a traceback then names the line of the page.
        return compile("\n" * (step.line - 1) + code, str(self.page), "exec")

    def _python(self, step: Step, shown: str | None) -> None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(self._compiled(step, self.here(step.text)), self.names)
        if shown is not None:
            self._compare(step, printed.getvalue(), self.here(shown))

    def _console(self, step: Step) -> None:
        for command, shown in commands_of(step.text):
            if self.code and not command.startswith("echo $?"):
                raise AssertionError(f"{self._where(step)}: before `{command}`, a command ended with {self.code}")
            # bash, told how the command before ended, for `echo $?`.
            out, self.code = self._in_terminal(f"(exit {self.code})\n{self.here(command)}")
            if shown:
                self._compare(step, out, self.here(shown), command)
            assert "Traceback" not in out, f"{self._where(step)}: {out}"

    def _in_terminal(self, script: str) -> tuple[str, int]:
        """What a dumb terminal shows of *script*, and its exit code."""
        terminal, ours = pty.openpty()
        with subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=ours,
            stderr=ours,
        ) as running:
            os.close(ours)
            seen = b""
            with os.fdopen(terminal, "rb", buffering=0) as file, contextlib.suppress(OSError):  # EIO: end of file
                while piece := file.read(65536):
                    seen += piece
        plain = re.sub(r"\x1b\[[01]m", "", seen.decode())  # curl prints names of fields bold, even here
        return re.sub(r"\r+\n", "\n", plain), running.returncode

    def _compare(self, step: Step, got: str, shown: str, command: str = "") -> None:
        got = got.replace(str(default_data()), SHOWN_DATA).replace(str(default_cache()), SHOWN_CACHE)
        if not pattern_of(steadied(shown)).fullmatch(steadied(got)):
            raise AssertionError(f"{self._where(step)}: {command}\n--- the page shows\n{shown}\n--- it is\n{got}")

    def _where(self, step: Step) -> str:
        return f"{_name(self.page)}:{step.line}"


def commands_of(text: str) -> Iterator[tuple[str, str]]:
    """Each ``$ command`` of a console block, with its ``> `` lines, and the output that is shown for it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        first, *lines = part.splitlines()
        more = list(itertools.takewhile(lambda line: line.startswith("> "), lines))
        command = "\n".join([first, *(line.removeprefix("> ") for line in more)])
        yield command, "\n".join(lines[len(more) :]).strip("\n")


def steadied(text: str) -> str:
    """*text* with one word for what differs from run to run: versions, ages, durations, moments, widths."""
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return "\n".join(line.rstrip() for line in text.rstrip().splitlines())


def pattern_of(shown: str) -> re.Pattern[str]:
    """Matches what *shown* shows: ``...`` stands for anything in a line, alone on a line for any lines."""
    parts = []
    for line in shown.rstrip().splitlines():
        if line.strip() == "...":
            parts.append(r"(?:[^\n]*(?:\n|\Z))*?")
        else:
            parts.append(r"[^\n]*?".join(map(re.escape, line.rstrip().split("..."))) + r"(?:\n|\Z)")
    return re.compile("".join(parts))


@pytest.fixture
def reader(
    tmp_path: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Any]
) -> Callable[[Path], Reader]:
    """``reader(page)``: a `Reader` with a home, a working folder and a `forebay` of its own."""
    for name in ("home", "bin", "work"):
        (tmp_path / name).mkdir()
    program = tmp_path / "bin" / "forebay"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m forebay "$@"\n')
    program.chmod(0o755)
    for name in os.environ:
        if name.startswith(("FOREBAY_", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    # Impatient between attempts; a terminal without colours and bars.
    monkeypatch.setenv("FOREBAY_BACKOFF_BASE_S", "0.01")
    for name, value in (("TERM", "dumb"), ("COLUMNS", "240"), ("LINES", "40"), ("LC_ALL", "C.UTF-8")):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path / "work")
    return lambda page: Reader(page, origin, tmp_path / "work", dict(os.environ), serve)


@pytest.mark.parametrize("page", [page for page in PAGES if any(map(_runs, steps_of(page)))], ids=_name)
def test_the_examples_of_a_page_work(page: Path, reader: Callable[[Path], Reader]) -> None:
    """Executed from top to bottom, every example works and prints what the page shows."""
    reader(page).read()


def test_every_kind_of_page_has_examples_that_run() -> None:
    """README, the tutorial and every how-to have at least one block that is executed."""
    must = [ROOT / "README.md", *DOCS.glob("tutorial/*.md"), *DOCS.glob("how-to/*.md")]
    assert [_name(page) for page in must if not any(map(_runs, steps_of(page)))] == []


def test_output_is_compared_with_dots_for_what_varies() -> None:
    """``...`` stands for anything in its line and, alone, for any lines; everything else must be there."""
    assert pattern_of("a ... c\n...\nz").fullmatch("a b c\n1\n2\nz")
    assert pattern_of("a\n...").fullmatch("a")
    assert not pattern_of("a ... c").fullmatch("a b\nc")
    assert not pattern_of("a").fullmatch("a\nb")


# --- tables that the code makes ---------------------------------------------------------------------------


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")


def _table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _number(value: object) -> str:
    return f"{value:,.10g}".replace(",", "") if isinstance(value, float) else str(value)


# What a default is that the machine decides.
_MADE = {
    default_data: "your user data folder",
    default_cache: "your user cache folder",
    default_workers: "one a core, 4 at most",
}


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "-"
    if field.default is PydanticUndefined:
        return _MADE[field.default_factory]
    if field.default is None or field.default == ():
        return "none"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f"`{_number(field.default)}`" if field.default != "" else "none"


def _bounds(field: FieldInfo) -> str:
    found = {
        name: getattr(item, name) for item in field.metadata for name in ("ge", "gt", "le") if hasattr(item, name)
    }
    if "ge" in found and "le" in found:
        return f"{_number(found['ge'])} to {_number(found['le'])}"
    words = {"ge": "at least", "gt": "more than", "le": "at most"}
    return ", ".join(f"{words[name]} {_number(value)}" for name, value in found.items()) or "-"


def settings_table(kind: type[BaseModel], *, beside: type[Settings] | None = None) -> str:
    """Every setting of *kind* with its variable, default, bounds and meaning; only what differs from *beside*."""
    fields = {
        name: field
        for name, field in kind.model_fields.items()
        if beside is None or name not in beside.model_fields or field.default != beside.model_fields[name].default
    }
    rows = [
        (f"`{name}`", f"`FOREBAY_{name.upper()}`", _default(field), _bounds(field), _cell(field.description or ""))
        for name, field in fields.items()
    ]
    return _table(("Setting", "Variable", "Default", "Allowed", "Meaning"), rows)


# Their words differ from one Typer to the next.
TYPERS_OWN = ("install_completion", "show_completion", "help")


def _command_text(command: Any, path: str) -> str:
    """One command: its usage, its help and its options."""
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option"]
    usage = " ".join([path, "[OPTIONS]", *(_argument(param) for param in arguments)])
    prose, _, example = inspect.cleandoc(command.help or "").partition("Example: ")
    parts = [f"```sh\n{usage}\n```", _escaped(prose.strip())]
    if example:
        parts.append(f"```sh\n{example.strip()}\n```")
    if arguments:
        rows = [(f"`{param.metavar or param.name.upper()}`", _cell(param.help or "")) for param in arguments]
        parts.append(_table(("Argument", "Meaning"), rows))
    options = [param for param in options if not param.hidden and param.name not in TYPERS_OWN]
    rows = [(_option(param), _option_help(param)) for param in options]
    parts.append(_table(("Option", "Meaning"), rows))
    return "\n\n".join(parts)


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;")


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    return f"[{name}]..." if param.nargs == -1 else name


def _option(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in param.opts)
    return names if param.is_flag else f"{names} `{_cell(param.metavar or '')}`"


def _option_help(param: Any) -> str:
    text = _cell(param.help or "")
    if isinstance(param.show_default, str):
        text += f" Default: {param.show_default}."
    if param.envvar:
        text += f" Variable: `{param.envvar}`."
    return text


def command_tables() -> dict[str, str]:
    """The program and each of its commands, by name."""
    program: Any = typer.main.get_command(app)
    found = {"forebay": _command_text(program, "forebay").replace("[OPTIONS]", "[OPTIONS] COMMAND [ARGS]...")}
    for name, command in program.commands.items():
        # A noun that has verbs has no options of its own.
        parts = {f"{name} {verb}": part for verb, part in getattr(command, "commands", {}).items()}
        found |= {path: _command_text(part, f"forebay {path}") for path, part in (parts or {name: command}).items()}
    return found


@cache
def rest_tables() -> dict[str, str]:
    """The routes of the REST API, by tag."""
    with tempfile.TemporaryDirectory() as folder, Forebay(ServerSettings(data=Path(folder))) as bay:
        document = document_of(make_api(cast(Basin, SimpleNamespace(bay=bay))))
    rows: dict[str, list[tuple[str, str]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            meaning = _escaped(" ".join(operation["description"].split()))
            rows.setdefault(operation["tags"][0], []).append((f"`{method.upper()} {path}`", _cell(meaning)))
    return {tag: _table(("Request", "Meaning"), found) for tag, found in rows.items()}


def _error_classes() -> list[type[errors.ForebayError]]:
    every = [
        value for value in vars(errors).values() if inspect.isclass(value) and value.__module__ == errors.__name__
    ]
    return [value for value in every if issubclass(value, errors.ForebayError)]


@dataclass(frozen=True, slots=True)
class Code:
    """What errors.py says of one code."""

    code: str
    kind: str
    status: int
    exit_code: int
    meaning: str


def _origin_cases() -> dict[str, str]:
    """The codes in the docstring of `OriginError` with their meanings."""
    return dict(re.findall(r"^ *``(\w+)`` +(.+)$", errors.OriginError.__doc__ or "", re.MULTILINE))


def error_codes() -> list[Code]:
    """Every code, in the order of errors.py."""
    codes = []
    for kind in _error_classes():
        meaning = (kind.__doc__ or "").split("\n\n")[0].replace("``", "`").replace("\n", " ")
        if kind is errors.OriginError:
            meanings = {"origin_error": "The fetch failed in a way that has no code of its own."} | _origin_cases()
            made = [(errors.OriginError(code, ""), f"{text.rstrip('.')}.") for code, text in meanings.items()]
        elif kind is errors.HashMismatch:
            made = [(errors.HashMismatch("", algorithm="", expected="", got=""), meaning)]
        elif kind is errors.ContentTooLarge:
            made = [(errors.ContentTooLarge(limit_bytes=1, size_bytes=2), meaning)]
        else:
            made = [(kind.__new__(kind), meaning)]
        for error, text in made:
            text = text[0].upper() + text[1:]
            # What speaks to those who raise it names its parameters; readers do not need it.
            text = " ".join(part for part in re.split(r"(?<=\.) +", text) if "*" not in part)
            codes.append(Code(error.code, kind.__name__, error.status, exit_code(error), " ".join(text.split())))
    return codes


def errors_table() -> str:
    """Every code with its class, HTTP status, exit code and meaning."""
    rows = [
        (
            f"[`{code.code}`](#{code.code})",
            f"`{code.kind}`",
            str(code.status),
            str(code.exit_code),
            _cell(code.meaning),
        )
        for code in error_codes()
    ]
    return _table(("Code", "Class", "HTTP", "Exit", "Meaning"), rows)


def _derived() -> dict[str, tuple[Path, str]]:
    """What stands between ``<!-- derived: NAME -->`` and ``<!-- end -->``: its page and its text."""
    reference = DOCS / "reference"
    found = {"settings": (reference / "settings.md", settings_table(Settings))}
    found["settings of a client"] = (reference / "settings.md", settings_table(RemoteSettings))
    found["settings of a server"] = (reference / "settings.md", settings_table(ServerSettings, beside=Settings))
    for tag, text in rest_tables().items():
        found[f"rest {tag}"] = (reference / "rest.md", text)
    found["errors"] = (reference / "errors.md", errors_table())
    for name, text in command_tables().items():
        found[f"cli {name}"] = (reference / "cli.md", text)
    return found


@pytest.mark.parametrize("name", _derived())
def test_reference_tables_are_those_of_the_code(name: str) -> None:
    """Settings, error codes, commands and options stand in the reference as the code has them, defaults
    included."""
    page, wanted = _derived()[name]
    source = page.read_text("utf-8")
    found = re.search(rf"(<!-- derived: {name} -->\n\n)(.*?)(\n\n<!-- end -->)", source, re.DOTALL)
    assert found, f"{_name(page)} has no place for {name}"
    if os.environ.get("UPDATE_DOCS"):
        page.write_text(source[: found.start(2)] + wanted + source[found.end(2) :], "utf-8")
    else:
        assert found[2] == wanted, f"{_name(page)} is not what the code says; UPDATE_DOCS=1 writes it"


def test_no_reference_table_is_left_over() -> None:
    """A derived table of something that the code no longer has is found."""
    for page in PAGES:
        names = re.findall(r"<!-- derived: (.+?) -->", page.read_text("utf-8"))
        assert set(names) == {name for name, (home, _) in _derived().items() if home == page}


def test_each_error_code_has_a_way_out() -> None:
    """Below the table, each code has a section that says whether asking again helps, and what to do."""
    source = (DOCS / "reference" / "errors.md").read_text("utf-8")
    sections = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=^#|\Z)", source, re.DOTALL | re.MULTILINE))
    codes = {code.code: code for code in error_codes()}
    assert set(sections) == set(codes)
    for code, text in sections.items():
        assert re.search(r"^Retryable: (yes|no)\b", text), code
    own = {kind.code: kind.retryable for kind in _error_classes() if not issubclass(kind, errors.OriginError)}
    for code, retryable in own.items():
        assert sections[code].startswith("Retryable: " + ("yes" if retryable else "no")), code


def test_codes_in_the_source_are_known() -> None:
    """No code is raised anywhere that errors.py, and so the reference, does not list."""
    known = {code.code for code in error_codes()}
    for file in Path(forebay.__file__).parent.rglob("*.py"):
        raised = re.findall(r'(?:OriginError|Failed|Refused)\(\s*"(\w+)"', file.read_text("utf-8"))
        assert set(raised) <= known, file.name


# --- reference pages that are written by hand -------------------------------------------------------------

MODELS: tuple[type[BaseModel], ...] = (
    models.Request, models.RequestSpec, models.RequestCacheConfiguration, models.Response,
    models.ResponseContentAttributes, models.ResponseDownloadStats, models.Never, models.Age, models.Cron,
    models.WhenRequested, models.WhenRemoteChanged, models.Upload, models.ChunkRequest, models.ChunkResponse,
)  # fmt: skip


def _sections(page: Path) -> dict[str, str]:
    """The text below each heading, by heading without marks."""
    parts = re.split(r"^#+ +(.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {title.replace("`", ""): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_each_field_of_a_model_is_described(model: type[BaseModel]) -> None:
    """models.md has a row for each field of each model, and none for others; plain defaults are the code's."""
    text = _sections(DOCS / "reference" / "models.md")[model.__name__]
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE))
    assert set(rows) == set(model.model_fields)
    for name, field in model.model_fields.items():
        if isinstance(field.default, str | int | float) and field.default not in ("", False):
            assert f"`{_number(field.default)}`" in rows[name], name


def test_each_public_name_is_described() -> None:
    """python.md has everything that `forebay` exports, and each method of `Forebay` with its parameters."""
    source = (DOCS / "reference" / "python.md").read_text("utf-8")
    assert [name for name in forebay.__all__ if f"`{name}" not in source and f"`forebay.{name}" not in source] == []
    sections = _sections(DOCS / "reference" / "python.md")
    for name, method in inspect.getmembers(forebay.Forebay, inspect.isfunction):
        if name.startswith("_") or name in INNER:
            continue
        title = next((title for title in sections if title.startswith(f"bay.{name}(")), "")
        assert title, f"python.md has no heading for bay.{name}"
        wanted = [parameter for parameter in inspect.signature(method).parameters if parameter != "self"]
        missing = [parameter for parameter in wanted if not re.search(rf"\b{parameter}\b", title + sections[title])]
        assert missing == [], name


# Steps of a fetch and parts that the server of a later release needs; no part of the public API.
INNER = {
    "register", "errand", "job", "submit", "submit_all", "let_go", "note", "note_used", "follow", "opening",
    "call_soon", "at_close", "publish", "scheduler", "tend", "verify_next", "progress", "with_progress", "write_touches",
}  # fmt: skip


# --- links ------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"^ *```.*?^ *```[ ]*$", re.DOTALL | re.MULTILINE)


def _links(page: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "``", _FENCE.sub("", page.read_text("utf-8")))
    return re.findall(r"\]\(([^)\s]+)\)", text)


def _anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives to headings."""
    titles = re.findall(r"^#+ +(.+?) *$", _FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=_name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file of the repository, and each fragment a heading of it."""
    dead = []
    for link in _links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in _anchors(target)):
            dead.append(link)
    assert dead == []


def test_every_page_can_be_found() -> None:
    """From README, each page of docs/ is reached by links."""
    seen, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        links = [link.partition("#")[0] for link in _links(page) if not re.match(r"[a-z]+:", link)]
        todo += [(page.parent / link).resolve() for link in links if link]
    assert [_name(page) for page in PAGES if page.resolve() not in {found.resolve() for found in seen}] == []


def test_nothing_names_the_machine_that_it_was_written_on() -> None:
    """No page names a folder of the machine that it was written on."""
    for page in LINKED:
        assert not re.search(r"/(?:work|tmp|root)/", page.read_text("utf-8")), _name(page)
