"""What ``--functions`` names, which folder is served with it, and how a broken file is told."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

SIMPLE = """
import forebay
bay = forebay.open({folder!r})
@bay.expose(get=True)
def where() -> str:
    return str(bay.folder)
"""


def where(served: Any) -> Path:
    """The folder of the Forebay whose functions are called."""
    answer = httpx.get(f"{served.url}/v1/call/where", trust_env=False, timeout=60)
    assert answer.status_code == 200, answer.text
    return Path(answer.json())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that opens the folder ``own`` beside it."""
    path = tmp_path / "functions.py"
    path.write_text(SIMPLE.format(folder=str(tmp_path / "own")))
    return path


def test_the_folder_is_the_files_own(serve: Any, file: Path, tmp_path: Path) -> None:
    """Unless another is named; the whole server is on it."""
    served = serve("--functions", str(file), data=False)
    assert where(served) == tmp_path / "own"
    assert f"data: {tmp_path / 'own'}" in served.stderr()
    assert "functions: /v1/call/where" in served.stderr()


def test_another_folder_can_be_served(serve: Any, file: Path, tmp_path: Path) -> None:
    """Then the file's own is not even made."""
    assert where(serve("--functions", str(file))) == tmp_path / "served"
    assert not (tmp_path / "own").exists()


def test_the_environment_names_them_as_well(serve: Any, file: Path, tmp_path: Path) -> None:
    """As all settings."""
    env = {
        "FOREBAY_FUNCTIONS": str(file),
        "FOREBAY_DATA": str(tmp_path / "env"),
        "FOREBAY_SERVER": "http://a.invalid",
    }
    assert where(serve(data=False, env=env)) == tmp_path / "env"


def test_a_module_is_found_from_here(
    serve: Any, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is what lies beside a file."""
    (tmp_path / "beside.py").write_text("WORD = 'beside'")
    file.write_text(file.read_text() + "\nimport beside\n@bay.expose(get=True)\ndef word(): return beside.WORD\n")
    monkeypatch.chdir(tmp_path)
    served = serve("--functions", "functions:bay")
    assert httpx.get(f"{served.url}/v1/call/word", trust_env=False).json() == "beside"
    monkeypatch.chdir("/")
    served = serve("--functions", str(file), folder="other")
    assert httpx.get(f"{served.url}/v1/call/word", trust_env=False).json() == "beside"


def test_one_of_several_is_chosen(serve: Any, tmp_path: Path) -> None:
    """The one with functions, or the one that is named; the others keep their folders, and the server's gate."""
    file = tmp_path / "several.py"
    file.write_text(
        "import forebay\n"
        f"archive = forebay.open({str(tmp_path / 'archive')!r}, allow_private=True)\n"
        f"main = forebay.open({str(tmp_path / 'main')!r})\n"
        "@main.expose(get=True)\n"
        "def where(): return str(main.folder)\n"
        "@main.expose(get=True)\n"
        "def other(): return [str(archive.folder), archive.settings.allow_private]\n"
    )
    for target, data, folder in ((file, False, "main"), (f"{file}:main", True, "served")):
        env = {"FOREBAY_ALLOW_PRIVATE": "false"}
        served = serve("--functions", str(target), data=data, env=env)
        assert where(served) == tmp_path / folder
        other = httpx.get(f"{served.url}/v1/call/other", trust_env=False).json()
        assert other == [str(tmp_path / "archive"), False]
        assert served.stop() == 0


def test_settings_of_the_file_that_do_not_hold_are_told(serve: Any, tmp_path: Path) -> None:
    """The server's do."""
    file = tmp_path / "functions.py"
    file.write_text(SIMPLE.format(folder="x").replace("'x'", "'x', max_downloads=3"))
    served = serve("--functions", str(file))
    assert "opens its folder with max_downloads; here, the server's settings hold" in served.stderr()


BAY = "import forebay\nbay = forebay.open('own')\n"


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        (None, "{file}", "there is no such file"),
        ("x = (", "{file}", "functions.py:1: SyntaxError: '(' was never closed"),
        (f"{BAY}\nraise ValueError('broken')", "{file}", "functions.py:4: ValueError: broken"),
        ("import sys\nsys.exit('enough')", "{file}", "functions.py:2: SystemExit: enough"),
        ("import os\nos._exit(3)", "{file}", "ended with exit code 3"),
        ("import missing_module", "{file}", "functions.py:1: ModuleNotFoundError: No module named 'missing_module'"),
        (f"{BAY}@bay.expose(name='a b')\ndef f(): ...", "{file}", "functions.py:3: name: expected segments"),
        (f"{BAY}@bay.expose\ndef f(*args): ...", "{file}", "functions.py:3: args: expected parameters with names"),
        (f"{BAY}@bay.handle('/docs')\ndef f(): ...", "{file}", "functions.py:3: path: expected none of the server's own"),
        (BAY, "{file}", "it exposes no function; put @bay.expose before one"),
        (BAY, "{file}:bay", "bay exposes no function"),
        (f"{BAY}@bay.expose\ndef f(): ...", "{file}:boy", "boy is nothing; expected what forebay.open(folder) gives"),
        (f"{BAY}x = 1", "{file}:x", "x is a int"),
        ("import forebay\nbay = forebay.open('http://127.0.0.1:9')\n", "{file}:bay", "bay is a RemoteForebay"),
        ("import forebay\nfrom forebay import Forebay, Settings\nbay = Forebay(Settings(data='own'))\n"
         "@bay.expose\ndef f(): ...", "{file}", "open it with forebay.open(folder)"),
        ("import forebay\na, b = forebay.open('a'), forebay.open('b')\n@a.expose\n@b.expose\ndef f(): ...",
         "{file}", "several expose functions; say which"),
        (None, "no_such_module:bay", "No module named 'no_such_module'"),
        (None, "{folder}", "expected a file such as functions.py, or module:bay"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_told_once(tmp_path: Path, source: str | None, target: str, said: str) -> None:
    """In a sentence, before anything is started; the exit code is the user's fault."""
    file = tmp_path / "functions.py"
    if source is not None:
        file.write_text(source)
    argv = [sys.executable, "-m", "forebay", "serve", "--port", "0"]
    argv += ["--functions", target.format(file=file, folder=tmp_path)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("FOREBAY_")}
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "listening" not in done.stderr


def test_a_file_that_breaks_later_ends_the_server(serve: Any, file: Path) -> None:
    """An API process that cannot be started any more is not started for ever."""
    served = serve("--functions", str(file))
    file.write_text("raise ValueError('broken meanwhile')")
    from processes import api_processes

    for process in api_processes(served.process.pid):
        os.kill(process.pid, 9)
    assert served.process.wait(60) == 2
    assert "broken meanwhile" in served.stderr()
