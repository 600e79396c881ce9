"""The README promises two commands, and says the truth about what they need. What its other blocks do is
`test_docs`'s."""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MAIN_JOB = "python3 -m pip install . && forebay get https://www.rfc-editor.org/rfc/rfc9110.txt"
ALL_TESTS = 'python3 -m pip install ".[test]" && pytest'


def _commands() -> list[str]:
    return re.findall(r"^```sh\n(.+?)\n```$", README, re.MULTILINE)


def test_the_two_commands_come_first() -> None:
    """The main job and all the tests are one line each, exactly as they are promised."""
    assert _commands()[:2] == [MAIN_JOB, ALL_TESTS]


def test_the_first_command_finds_its_program() -> None:
    """What is installed has a program `forebay`."""
    (program,) = metadata.entry_points(group="console_scripts", name="forebay")
    assert callable(program.load())


def test_the_second_command_brings_what_the_tests_import() -> None:
    """Everything that tests import is the standard library, a dependency, or in the extra `test`."""
    extras = PROJECT["optional-dependencies"]
    named = [*PROJECT["dependencies"], *extras["test"], *extras["images"]]  # "test" brings "images"
    brought = {re.match(r"[A-Za-z0-9_.-]+", name)[0].lower().replace("-", "_") for name in named}  # type: ignore[index]
    ours = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"forebay"}
    # pydantic pins pydantic_core; it is half of pydantic. Pillow's module has the name of what it came from.
    allowed = brought | ours | {"pydantic_core"} | ({"PIL"} if "pillow" in brought else set())
    allowed |= sys.stdlib_module_names
    for file in (ROOT / "tests").rglob("*.py"):
        found = re.findall(r"^(?:import|from) (\w+)", file.read_text("utf-8"), re.MULTILINE)
        assert set(found) <= allowed, file.name


def test_requirements_are_those_of_the_package() -> None:
    """The oldest Python that the README names is the one that the package takes."""
    named = re.search(r"Python (3\.\d+) or newer", README)
    assert named is not None
    assert PROJECT["requires-python"] == f">={named[1]}"


def test_there_is_a_place_for_the_figures() -> None:
    """Measured figures stand between two marks, as a table of what, peer and ratio."""
    figures = re.search(r"<!-- figures -->\n(.+?)<!-- /figures -->", README, re.DOTALL)
    assert figures is not None
    assert figures[1].strip().startswith("| What | Peer | Ratio |")


def test_it_is_short() -> None:
    """A reader has it all after four screens or so."""
    assert len(README.splitlines()) <= 180
