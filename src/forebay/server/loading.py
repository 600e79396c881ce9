"""``--functions``: the Forebay that a user's file exposes functions of, and the folder that is served with it.

The file runs in each API process. Before any is started it runs once in a process of its own, so that what is wrong
with it is told once; and so that it is known which folder it opens, which the fetch worker needs as well.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import re
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from forebay import opening
from forebay.bay import Forebay
from forebay.errors import ForebayError, FunctionsNotLoaded
from forebay.settings import ServerSettings

_USUAL_NAME = "bay"
_MODULE = re.compile(r"(?!\d)\w+(?:\.(?!\d)\w+)*")


@dataclass(frozen=True, slots=True)
class Found:
    """What a file exposes: *number* is that of the `forebay.open` in it whose Forebay has the functions,
    *functions* their paths, *ignored* the settings that it gave there and a server has of its own."""

    number: int
    folder: Path
    functions: tuple[str, ...]
    ignored: tuple[str, ...]


# --- before any API process -------------------------------------------------------------------------------


def find_functions(settings: ServerSettings, *, keep_folder: bool) -> Found:
    """What ``settings.functions`` exposes. *keep_folder*: for the folder of *settings*, not the one that the file
    opens. Raises `FunctionsNotLoaded`."""
    assert settings.functions is not None
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_find, args=(settings, keep_folder, theirs))
    process.start()
    theirs.close()
    try:
        said: Found | str = ours.recv()
    except EOFError:
        process.join()
        said = f"the process that loaded it ended with exit code {process.exitcode}"
    process.terminate()  # whatever it has started
    process.join()
    if isinstance(said, str):
        raise FunctionsNotLoaded(settings.functions, reason=said)
    return said


def _find(settings: ServerSettings, keep_folder: bool, pipe: Connection) -> None:
    assert settings.functions is not None
    try:
        opened = _Opened(settings, keep_folder=keep_folder, number=None)
        bay = _load(settings.functions, opened)
        number = opened.number_of(bay)
        paths = tuple(exposed.path for exposed in bay.functions)
        folder = settings.data if keep_folder else bay.folder
        pipe.send(Found(number, folder, paths, opened.ignored(number)))
    except FunctionsNotLoaded as error:
        pipe.send(error.reason)
    pipe.close()


# --- in an API process ------------------------------------------------------------------------------------


def load_functions(settings: ServerSettings, *, number: int) -> Forebay:
    """The Forebay on the folder of *settings*, with the functions of ``settings.functions``; *number*: see `Found`.
    Raises `FunctionsNotLoaded`."""
    assert settings.functions is not None
    opened = _Opened(settings, keep_folder=True, number=number)
    bay = _load(settings.functions, opened)
    if opened.number_of(bay) != number:
        raise FunctionsNotLoaded(settings.functions, reason="it opens another folder each time that it runs")
    return bay


class _Opened:
    """What a file opens while it is loaded. Each is a server's: its gate refuses what the server's refuses, for
    what a function fetches may be a client's choice."""

    def __init__(self, settings: ServerSettings, *, keep_folder: bool, number: int | None) -> None:
        self._settings, self._keep_folder, self._number = settings, keep_folder, number
        self._bays: list[tuple[Forebay, tuple[str, ...]]] = []

    def open(self, folder: Path | None, given: dict[str, Any]) -> Forebay:
        """In place of `forebay.open` of a folder."""
        # Which one will have the functions is not known the first time: most files open one.
        served = (0 if self._keep_folder else None) if self._number is None else self._number
        own = given.get("data") or folder
        data = self._settings.data if own is None or len(self._bays) == served else Path(own)
        bay = Forebay(self._settings.model_copy(update={"data": data}))
        self._bays.append((bay, tuple(sorted(given.keys() - {"data"}))))
        return bay

    def number_of(self, bay: Forebay) -> int:
        for number, (opened, _) in enumerate(self._bays):
            if opened is bay:
                return number
        raise FunctionsNotLoaded(self._settings.functions or "", reason="open it with forebay.open(folder)")

    def ignored(self, number: int) -> tuple[str, ...]:
        return self._bays[number][1]


def _load(target: str, opened: _Opened) -> Forebay:
    """The Forebay with functions in what *target* names, a file or a module, perhaps with a name in it."""
    place, name = _parts(target)
    with opening.opened_by(opened.open):
        try:
            module = _run_file(Path(place)) if place.endswith(".py") else _import(place)
        except FunctionsNotLoaded:
            raise
        except (Exception, SystemExit) as error:
            raise FunctionsNotLoaded(target, reason=_told(error)) from error
    return _bay_in(module, target, name)


def _parts(target: str) -> tuple[str, str | None]:
    place, colon, name = target.rpartition(":")
    if not colon or "/" in name or name.endswith(".py"):
        place, name = target, ""
    if not place.endswith(".py") and not _MODULE.fullmatch(place):
        raise FunctionsNotLoaded(target, reason="expected a file such as functions.py, or module:bay")
    return place, name or None


def _run_file(path: Path) -> ModuleType:
    path = path.expanduser().absolute()
    if not path.is_file():
        raise FunctionsNotLoaded(str(path), reason="there is no such file")
    # As `python file.py` has it, so that it finds what is beside it; by a name that hides no other module.
    sys.path.insert(0, str(path.parent))
    name = f"_functions_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _import(name: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` has it
    return importlib.import_module(name)


def _told(error: BaseException) -> str:
    """What went wrong, and in which line of the user's."""
    kind = type(error).__name__
    text = str(error) if isinstance(error, ForebayError) else f"{kind}: {error}" if str(error) else kind
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {kind}: {error.msg}"
    not_theirs = (str(Path(opening.__file__).parent), str(Path(traceback.__file__).parent), "<frozen")
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame for frame in frames if not frame.filename.startswith(not_theirs)]
    return f"{lines[-1].filename}:{lines[-1].lineno}: {text}" if lines else text


def _bay_in(module: ModuleType, target: str, name: str | None) -> Forebay:
    found = {id(value): value for value in vars(module).values() if isinstance(value, Forebay)}
    if name is not None:
        chosen = getattr(module, name, None)
        if not isinstance(chosen, Forebay):
            what = "nothing" if chosen is None else f"a {type(chosen).__name__}"
            reason = f"{name} is {what}; expected what forebay.open(folder) gives"
            raise FunctionsNotLoaded(target, reason=reason)
    else:
        with_functions = [bay for bay in found.values() if len(bay.functions)]
        usual = vars(module).get(_USUAL_NAME)
        if len(with_functions) > 1 and usual not in with_functions:
            raise FunctionsNotLoaded(target, reason=f"several expose functions; say which: {target}:NAME")
        if not with_functions:
            raise FunctionsNotLoaded(target, reason="it exposes no function; put @bay.expose before one")
        chosen = usual if usual in with_functions else with_functions[0]
    assert isinstance(chosen, Forebay)
    if not len(chosen.functions):
        raise FunctionsNotLoaded(target, reason=f"{name} exposes no function; put @{name}.expose before one")
    return chosen
