"""`./file.py:function` is a component like any other, without being installed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from rdfia_cli import registry
from rdfia_cli.errors import ComponentError, UsageError
from rdfia_cli.spec import parse_spec

SOURCE = '''
from torch import nn
from beside import WIDTH


class Net(nn.Sequential):
    pass


def build(input, *, width: int = WIDTH) -> nn.Module:
    """A model of one's own."""
    features = input.shape[0] * input.shape[1] * input.shape[2]
    return Net(nn.Flatten(), nn.Linear(features, width), nn.Linear(width, input.classes))
'''


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    path = tmp_path / "my_model.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("text", "name", "parameters"),
    [
        ("./a.py:build", "./a.py:build", {}),
        ("../x y/a.py:build:width=3", "../x y/a.py:build", {"width": "3"}),
        ("/r/me@home/a.py:f:path=b/c.py:g", "/r/me@home/a.py:f", {"path": "b/c.py:g"}),
        ("folder:path=b/c.py:g", "folder", {"path": "b/c.py:g"}),
    ],
)
def test_a_function_of_a_file_is_read_with_its_settings(text, name, parameters):
    spec = parse_spec(text)
    assert (spec.name, dict(spec.parameters)) == (name, parameters)
    assert parse_spec(spec.reference).name == name


def test_a_file_without_its_slash_is_told_how_to_write_it():
    with pytest.raises(UsageError) as caught:
        parse_spec("my_model.py:build")
    assert "./my_model.py:build" in caught.value.remedy


def test_its_version_is_the_hash_of_the_file(source: Path):
    component = registry.find("models", parse_spec("./my_model.py:build"))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert (component.distribution, component.version) == ("file", digest[:8])


@pytest.mark.parametrize(
    ("text", "told", "remedy"),
    [
        ("./absent.py:build", "cannot read './absent.py': No such file or directory", "path"),
        ("./my_model.py:bulid", "'./my_model.py' has no function 'bulid'", "'build'"),
        ("./my_model.py", "'./my_model.py' is a file, not a model", "./my_model.py:FUNCTION"),
    ],
)
def test_a_missing_file_or_function_is_named(source, text, told, remedy):
    with pytest.raises(ComponentError) as caught:
        registry.find("models", parse_spec(text))
    assert told in caught.value.fact
    assert remedy in caught.value.remedy


def test_a_file_that_is_no_python_says_where(tmp_path: Path):
    (tmp_path / "torn.py").write_text("\ndef build(:\n")
    with pytest.raises(ComponentError, match=r"SyntaxError in torn\.py \(line 2\)") as caught:
        registry.find("models", parse_spec("./torn.py:build"))
    assert "mend" in caught.value.remedy


def test_a_run_trains_such_a_model_and_records_the_file_s_hash(rdfia, source, tmp_path):
    command = ("train", "./my_model.py:build", "--data", "digits", "--epochs", "1", "-q", "--json")
    outcome = rdfia(*command, "--set", "model.width=7")
    assert outcome.code == 0, outcome.err
    folder = Path(outcome.json["run"])
    assert folder.name.startswith("my_model-build-digits-")
    environment = json.loads((folder / "environment.json").read_bytes())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert environment["files"] == {str(source.resolve()): digest}
    assert (environment["input"], environment["classes"]) == ([1, 8, 8], 10)
    assert outcome.json["model"] == "./my_model.py:build:width=7"
    assert rdfia("eval", str(folder)).code == 0


def test_a_finished_run_whose_file_changed_since_says_so(rdfia, source, tmp_path):
    command = ("train", "./my_model.py:build", "--epochs", "1", "--out", "run")
    assert rdfia(*command).code == 0
    assert "changed" not in rdfia(*command).err
    source.write_text(source.read_text() + "\n# another version\n")
    told = rdfia(*command)
    assert told.code == 0
    assert f"'{source.resolve()}' changed since the run in 'run' began" in told.err


def test_a_wrong_setting_of_such_a_model_is_refused(rdfia, source):
    outcome = rdfia("train", "./my_model.py:build:widht=7")
    assert outcome.code == 2
    assert "did you mean 'width'?" in outcome.err


@pytest.fixture
def run_of_a_file(rdfia, source, tmp_path) -> Path:
    """A run whose model was named by a path from the folder that holds the file."""
    command = ("train", "./my_model.py:build:width=7", "--epochs", "1", "-q", "--out", "run")
    assert rdfia(*command).code == 0
    return tmp_path / "run"


COMMANDS = [
    ("param-count", "RUN"),
    ("receptive-field", "RUN"),
    ("receptive-field", "RUN", "--effective", "--layer", "0", "--images", "2"),
    ("eval", "RUN"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_run_finds_its_file_from_any_folder(rdfia, run_of_a_file, monkeypatch, tmp_path, command):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "my_model.py").write_text("def build(input): raise RuntimeError('not mine')\n")
    monkeypatch.chdir(elsewhere)
    outcome = rdfia(*(str(run_of_a_file) if word == "RUN" else word for word in command))
    assert outcome.code == 0, outcome.err
    assert "changed" not in outcome.err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_file_that_changed_since_its_run_is_told(rdfia, run_of_a_file, source, command):
    source.write_text(f"{SOURCE}\n# another content\n")
    outcome = rdfia(*(str(run_of_a_file) if word == "RUN" else word for word in command))
    assert outcome.code == 0, outcome.err
    assert f"'{source.resolve()}' changed since the run" in outcome.err


def test_a_file_that_moved_with_its_run_is_found_beside_it_and_compared(
    rdfia, run_of_a_file, source, tmp_path, monkeypatch
):
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in (source, tmp_path / "beside.py", run_of_a_file):
        path.rename(moved / path.name)
    monkeypatch.chdir(moved)
    outcome = rdfia("param-count", "run", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    (moved / "my_model.py").write_text(f"{SOURCE}\n# another content\n")
    assert "changed since the run" in rdfia("param-count", "run").err


def test_a_damaged_record_of_a_run_is_named(rdfia, run_of_a_file):
    (run_of_a_file / "environment.json").write_text("{")
    outcome = rdfia("param-count", str(run_of_a_file), "--input", "1x8x8", "--classes", "10")
    assert outcome.code == 2
    assert "environment.json' is damaged" in outcome.err


@pytest.mark.parametrize("annotated", ["width=16", "width: len = 16"], ids=["read", "imported"])
def test_a_positional_setting_is_told_where_it_belongs(rdfia, tmp_path: Path, annotated: str):
    (tmp_path / "my_model.py").write_text(f"def build(input, {annotated}): ...\n")
    outcome = rdfia("train", "./my_model.py:build:width=8")
    assert outcome.code == 2
    assert "put it behind the *: def build(..., *, width)" in outcome.err
