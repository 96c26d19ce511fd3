"""The house stands as drawn, and starting the command line stays light."""

import fnmatch
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "torchvision", "timm", "sklearn", "matplotlib", "pydantic", "numpy")


def test_rooms_import_only_what_stands_below_them():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["list"], ["list", "--json"], ["trian"], ["train", "--lrr"]],
    ids=" ".join,
)
def test_help_listing_and_usage_errors_import_nothing_heavy(arguments: list[str]):
    assert imported_by(arguments).isdisjoint(HEAVY)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "cnnn"],
        ["train", "cnn:dropuot=0.5"],
        ["train", "--epochs", "0"],
        ["train", "--config", "absent.toml"],
        ["eval", "absent"],
    ],
    ids=" ".join,
)
def test_configuration_errors_import_neither_torch_nor_a_component(arguments: list[str]):
    assert imported_by(arguments).isdisjoint({"torch", "sklearn", "matplotlib", "numpy"})


def imported_by(arguments: list[str]) -> set[str]:
    """The top-level modules that a process imports for a command line."""
    program = (
        "import sys; sys.argv = ['rdfia', *sys.argv[1:]]\n"
        "from rdfia_cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print('imported:', *{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    line = next(x for x in finished.stderr.splitlines() if x.startswith("imported: "))
    return set(line.split()[1:])


def test_what_tests_leave_beside_the_plugins_is_no_member_of_the_workspace():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (pattern,) = settings["tool"]["uv"]["workspace"]["members"]
    assert not fnmatch.fnmatch("plugins/__pycache__", pattern)
    members = [path for path in ROOT.glob(pattern) if (path / "pyproject.toml").is_file()]
    assert {path.name for path in members} == {*settings["dependency-groups"]["plugins"]}
