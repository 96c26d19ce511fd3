# ruff: noqa: E501
"""`rdfia plugins`: what it lists, writes, checks and prints."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from rdfia_cli.testing import CHECKS
from rdfia_cli.testing.suite import promise

KINDS = ("model", "augmentation", "optimizer", "schedule", "dataset", "logger")
ROOT = Path(__file__).parent.parent.parent


def put_on_path(package: Path, site: Path) -> None:
    """What an installer does with a package: its sources and its metadata on the path."""
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    shutil.copytree(package / "src", site, dirs_exist_ok=True)
    folder = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    folder.mkdir()
    requires = "".join(f"Requires-Dist: {each}\n" for each in project["dependencies"])
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(head + requires)
    groups = project["entry-points"].items()
    lines = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups
    )
    (folder / "entry_points.txt").write_text(lines)


def test_a_new_package_of_each_kind_passes_its_own_tests(rdfia, tmp_path):
    for kind in KINDS:
        assert rdfia("plugins", "new", f"rdfia-novel-{kind}", "--kind", kind).code == 0
        put_on_path(tmp_path / f"rdfia-novel-{kind}", tmp_path / "site")
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib",
         *(f"rdfia-novel-{kind}" for kind in KINDS)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout
    assert "failed" not in finished.stdout


def test_a_new_package_is_complete_and_of_the_house_style(rdfia, tmp_path):
    for kind in KINDS:
        told = rdfia("plugins", "new", f"My.New_{kind}", "--kind", kind, "--json").json
        assert (told["schema"], told["distribution"]) == ("rdfia.plugins/1", f"my-new-{kind}")
        folder = tmp_path / told["folder"]
        there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert there == set(told["files"])
        assert {"pyproject.toml", "README.md", "LICENSE", ".github/workflows/tests.yml",
                "tests/test_conformance.py", f"tests/test_{kind}.py"} <= there  # fmt: skip
        command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,I,UP,B",
                   "--line-length", "100", "."]  # fmt: skip
        checked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a b"], "is no name of a distribution"),
        (["-x"], "no such option"),
        (["9lives"], "is no name of a distribution"),
        (["rdfia-class"], "'class' is no name of a module"),
        (["json"], "a module 'json' is installed already"),
        (["torch"], "a module 'torch' is installed already"),
        (["rdfia-cnn"], "rdfia-cli has a model 'cnn' already"),
        (["rdfia-cosine", "--kind", "schedule"], "rdfia-cli has a schedule 'cosine' already"),
        (["rdfia-nn"], "a function 'nn' would be taken for another one"),
        (["rdfia-min", "--kind", "schedule"], "a function 'min' would be"),
        (["rdfia-print"], "a function 'print' would be"),
        (["rdfia-torch", "--kind", "augmentation"], "a function 'torch' would be"),
        (["rdfia-images", "--kind", "augmentation"], "a function 'images' would be"),
        (["rdfia-testnet"], "a function 'testnet' would be"),
        (["tiny", "--kind", "modle"], "unknown kind 'modle'"),
        (["there"], "'there' exists"),
    ],
)
def test_a_package_that_cannot_be_is_refused_and_leaves_nothing(rdfia, tmp_path, arguments, told):
    (tmp_path / "there").mkdir()
    refused = rdfia("plugins", "new", *arguments)
    assert refused.code == 2
    assert told in refused.err
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


BROKEN = """
def build(input, width: int = 3):
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(7, input.classes))
"""


def test_a_check_says_what_is_wrong_and_ends_with_4(rdfia, tmp_path):
    (tmp_path / "mine.py").write_text(BROKEN)
    checked = rdfia("plugins", "check", "./mine.py:build", "--json")
    assert checked.code == 4
    (component,) = checked.json["components"]
    assert (component["group"], component["spec"], component["state"]) == (
        "models", "./mine.py:build", "failed")  # fmt: skip
    found = {each["check"]: each for each in component["checks"]}
    assert "'width' is positional" in found["signature_is_bindable"]["reason"]
    assert found["docstring_describes_it"]["state"] == "failed"
    assert found["logits_have_their_shape"]["state"] == "failed"
    assert found["import_has_no_side_effects"]["state"] == "passed"
    assert set(found) == {check.__name__ for check in CHECKS["models"]}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import time\ntime.sleep(99)\ndef build(input): 0", "did not end within 15 s"),
        ("import os\nos._exit(7)\ndef build(input): 0", "its import ended the process with 7"),
    ],
)
def test_what_never_ends_or_ends_the_process_is_named(rdfia, tmp_path, source, told):
    (tmp_path / "mine.py").write_text(source)
    checked = rdfia("plugins", "check", "./mine.py:build", "--timeout", "15")
    assert checked.code == 4
    assert "passed" not in checked.out, "nothing did"
    assert told in checked.out


ORPHANS = """
import os, time

def build(input):
    'A model that leaves a process behind.'
    from torch import nn
    if os.fork() == 0:
        {leave}
        with open({record!r}, 'a') as record:
            record.write(str(os.getpid()) + ' ')
        time.sleep(300)
        os._exit(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(7, input.classes))
"""


@pytest.mark.parametrize("leave", ["pass", "os.setsid()"])
def test_what_a_component_leaves_behind_is_not_waited_for(rdfia, tmp_path, leave):
    record = tmp_path / "left"
    (tmp_path / "mine.py").write_text(ORPHANS.format(leave=leave, record=str(record)))
    clock = time.monotonic()
    checked = rdfia("plugins", "check", "./mine.py:build", "--timeout", "120", "--json")
    assert time.monotonic() - clock < 120
    (component,) = checked.json["components"]
    assert {each["check"] for each in component["checks"]} == {c.__name__ for c in CHECKS["models"]}
    left = [int(process) for process in record.read_text().split()]
    assert left
    if leave == "pass":
        late = time.monotonic() + 20
        while any(is_running(process) for process in left):
            assert time.monotonic() < late, "what the component left still runs"
            time.sleep(0.05)
    else:
        for process in left:
            os.kill(process, signal.SIGKILL)


def is_running(process: int) -> bool:
    """Whether a process is there, and no mere entry of one that ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_component_that_ends_the_process_in_a_check_has_not_passed(rdfia, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os\ndef build(input):\n    'Ends.'\n    os._exit(0)\n"
    )
    checked = rdfia("plugins", "check", "./mine.py:build", "--json")
    assert checked.code == 4
    last = checked.json["components"][0]["checks"][-1]
    assert (last["check"], last["state"]) == ("logits_have_their_shape", "failed")
    assert last["reason"].startswith("the process ended with 0")


def test_an_unknown_plugin_is_refused_with_the_nearest(rdfia):
    refused = rdfia("plugins", "check", "rdfia-cil", "--json")
    assert refused.code == 4
    assert refused.json["remedy"] == "did you mean 'rdfia-cli'?"


def test_the_contract_tells_every_check_and_every_kind(rdfia):
    text = rdfia("plugins", "docs").out
    for checks in CHECKS.values():
        for check in checks:
            assert f"- `{check.__name__}`: {promise(check)}" in text
    for kind in KINDS:
        part = rdfia("plugins", "docs", kind)
        assert part.out.startswith(f"## {kind.capitalize()}s\n")
        assert part.out in text
    assert rdfia("plugins", "docs", "--json").json["text"].strip() == text.strip()
    assert rdfia("plugins", "docs", "modle").code == 2


def test_the_contract_is_in_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"docs/contract.md": "rdfia_cli/contract.md"}


@pytest.mark.usefixtures("no_plugins")
def test_without_plugins_the_list_is_empty_and_says_so(rdfia):
    assert rdfia("plugins", "list", "--json").json["plugins"] == []
    assert "no plugin is installed" in rdfia("plugins", "list").err


def test_an_installed_plugin_is_listed_with_its_version_and_components(install, rdfia):
    install("alpha", "def one(input): 'One.'\ndef two(optimizer, *, steps_per_epoch, epochs): 'Two.'\n",
            "[rdfia.models]\none = {module}:one\n[rdfia.schedules]\ntwo = {module}:two\n")  # fmt: skip
    plugin = next(p for p in rdfia("plugins", "list", "--json").json["plugins"]
                  if p["distribution"] == "alpha")  # fmt: skip
    assert (plugin["version"], plugin["state"], plugin["error"]) == ("1.2", "ok", None)
    assert [(c["group"], c["name"]) for c in plugin["components"]] == [
        ("models", "one"), ("schedules", "two")]  # fmt: skip
    assert "model one, schedule two" in rdfia("plugins", "list").out
