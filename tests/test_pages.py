"""The pages under docs/ do what they show: their commands are run as they are written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
pytestmark = pytest.mark.timeout(1200)


def blocks(page: str) -> list[tuple[str, str]]:
    """The kind and the text of each block of commands or of code."""
    return BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


def script_of(page: str) -> Iterator[str]:
    """A page as one shell script: a block of code goes to the file that its first line names."""
    for kind, text in blocks(page):
        first, _, rest = text.partition("\n")
        if kind == "sh":
            yield text
        elif first.startswith("# ") and first.endswith(".py"):
            yield f"cat > {first.removeprefix('# ')} <<'END_OF_FILE'\n{rest}END_OF_FILE\n"


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a reader would, and stop at the first command that fails."""
    finished = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "RDFIA_CACHE": str(folder / "cache"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    """A folder from which an installer takes rdfia as this checkout builds it."""
    folder = tmp_path_factory.mktemp("wheels")
    command = ["uv", "build", "--wheel", "--out-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    tested = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]
    lines = "\n".join(tested["constraint-dependencies"])
    (folder / "constraints.txt").write_text(lines)
    return folder


@pytest.mark.skipif(shutil.which("uv") is None, reason="needs uv")
def test_the_tutorial_goes_from_nothing_to_a_trained_model(tmp_path, wheels):
    """In a fresh environment, by commands only: install, train, evaluate, sweep, count, look."""
    outside = dict.fromkeys(("VIRTUAL_ENV", "PYTHONPATH"), "")
    finished = run(
        "unset VIRTUAL_ENV PYTHONPATH\n" + "".join(script_of("tutorial.md")),
        tmp_path,
        UV_FIND_LINKS=str(wheels),
        UV_CONSTRAINT=str(wheels / "constraints.txt"),
        UV_PYTHON=f"{sys.version_info.major}.{sys.version_info.minor}",
        **outside,
    )
    for run_folder, components in (("linear", "patches"), ("patches", "patches")):
        result = json.loads((tmp_path / "runs" / run_folder / "result.json").read_text())
        assert result["model"].startswith(components)
        environment = json.loads((tmp_path / "runs" / run_folder / "environment.json").read_text())
        assert environment["plugins"] == {"rdfia-patches": "0.1.0"}
    assert result["test"]["accuracy"] > 0.7
    swept = json.loads((tmp_path / "sweeps" / "widths" / "sweep.json").read_text())
    assert [trial["state"] for trial in swept["trials"]] == ["finished"] * 4
    listed = json.loads(finished.stdout.splitlines()[-1])
    assert [plugin["distribution"] for plugin in listed["plugins"]] == ["rdfia-patches"]
    assert listed["plugins"][0]["state"] == "ok"
    for told in ("macs", "global", "ConvMixer (Trockman and Kolter 2022", "accuracy"):
        assert told in finished.stdout.lower() or told in finished.stdout


def test_the_contract_comes_with_the_wheel(wheels):
    (wheel,) = wheels.glob("*.whl")
    command = [sys.executable, "-m", "zipfile", "-l", str(wheel)]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for name in ("contract.md", "templates/model.py.template", "recipes/vit-mnist.toml"):
        assert f"rdfia_cli/{name}" in names


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(blocks("shell.md"))))
def test_a_recipe_for_the_shell_works_as_it_is_written(tmp_path, number):
    kind, text = blocks("shell.md")[number]
    assert kind == "sh"
    place = str(Path(sys.executable).parent)
    run(text, tmp_path, PATH=f"{place}{os.pathsep}{os.environ['PATH']}", OMP_NUM_THREADS="1")
