"""What the README shows works as it is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from rdfia_cli import errors
from rdfia_cli.spec import InputSpec

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip().replace("$seed", "0").removesuffix(" || exit")
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip().startswith("rdfia ")
]
AFTER_TRAINING = ("rdfia eval", "rdfia report")


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images that the README takes for the reader's own, and a cache for them."""
    monkeypatch.setenv("RDFIA_CACHE", str(tmp_path / "cache"))
    for number in range(8):
        for kind in ("cat", "dog"):
            (tmp_path / "photos" / kind).mkdir(parents=True, exist_ok=True)
            size = (64 + number, 80 - number)
            Image.new("RGB", size, (16 * number, 0, 99)).save(
                tmp_path / "photos" / kind / f"{number}.png"
            )


def test_the_readme_shows_the_two_commands_first():
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL)
    assert first is not None
    shown = [line.partition("#")[0].strip() for line in first[1].splitlines()]
    assert shown == ["uv run rdfia train", "uv run pytest"]


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith(AFTER_TRAINING)])
def test_a_command_of_the_readme_is_accepted(rdfia, command):
    arguments = shlex.split(command, comments=True)[1:]
    dry = ["--dry-run"] if arguments[0] == "train" and "--dry-run" not in arguments else []
    outcome = rdfia(*arguments, *dry)
    assert outcome.code == 0, outcome.err


def test_the_evaluations_of_the_readme_work_on_a_run(rdfia, tmp_path):
    for command in COMMANDS:
        if command.startswith("rdfia train") and "--out" in command:
            arguments = shlex.split(command, comments=True)[1:]
            assert rdfia(*arguments, "--epochs", "1", "-q").code == 0
    shown = [c for c in COMMANDS if c.startswith(AFTER_TRAINING)]
    assert len(shown) >= 6
    for command in shown:
        outcome = rdfia(*shlex.split(command, comments=True)[1:])
        assert outcome.code == 0, outcome.err
    assert (tmp_path / "confusion.png").exists()
    assert (tmp_path / "both.html").exists()


def test_what_the_readme_prepares_is_then_listed(rdfia):
    prepared, listed = [c for c in COMMANDS if c.startswith("rdfia data")][:2]
    for command in (prepared, listed):
        outcome = rdfia(*shlex.split(command, comments=True)[1:])
        assert outcome.code == 0, outcome.err
    assert prepared.split()[3] in outcome.out


def test_the_toml_of_the_readme_is_accepted(rdfia, tmp_path):
    code = re.search(r"```toml\n(epochs.*?)```", README, re.DOTALL)
    assert code is not None
    (tmp_path / "mine.toml").write_text(code[1])
    assert rdfia("train", "--config", "mine.toml", "--dry-run").code == 0


def test_the_run_folder_holds_the_files_that_the_readme_names(rdfia, tmp_path):
    assert rdfia("train", "--epochs", "1", "-q", "--out", "run").code == 0
    table = README.partition("### The run folder")[2].partition("\n\nThe same")[0]
    named = set(re.findall(r"`([\w.]+\.\w+|checkpoints)", table.replace("/<number>/", "")))
    there = {path.name for path in (tmp_path / "run").iterdir()} - {".lock"}
    assert there == named


def test_the_component_of_the_readme_is_a_working_builder():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    scope: dict = {}
    exec(code[1], scope)
    model = scope["tiny"](InputSpec((1, 8, 8), 10), width=32)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_the_exit_codes_of_the_readme_are_those_of_the_errors():
    table = README.partition("| exit | meaning |")[2].partition("\n\n")[0]
    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    kinds = vars(errors).values()
    raised = {k.exit_code for k in kinds if isinstance(k, type) and hasattr(k, "exit_code")}
    assert shown == raised | {0}
