"""The code of plugins and files: a change of it is told, and an error is traced to it."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from rdfia_cli import registry
from rdfia_cli.component_code import find_culprit, package_hashes

FINE = """
from torch import nn

def build(input, *, dim: int = 4):
    '''A model of somebody else.'''
    return nn.Sequential(nn.Flatten(), nn.Linear(2, input.classes))
"""
SHORT = ("--data", "circles", "--epochs", "1", "--out", "run")


def test_a_plugin_that_changed_since_a_run_is_told(install, rdfia, tmp_path):
    install("edited", FINE, "[rdfia.models]\nstrange = {module}:build\n")
    assert rdfia("train", "strange", *SHORT, "-q").code == 0
    commands = (("train", "strange", *SHORT), ("eval", "run"), ("param-count", "run"))
    assert not any("changed" in rdfia(*command).err for command in commands)
    file = tmp_path / "site" / "plug_edited.py"
    file.write_text(FINE + "# another version\n")
    for command in commands:
        told = rdfia(*command)
        assert told.code == 0
        assert f"'{file}' changed since the run in 'run' began" in told.err


def test_any_module_of_a_plugin_s_package_is_its_code(install, rdfia, tmp_path):
    install("whole", "", "[rdfia.models]\nstrange = plug_package.models.nets:build\n")
    package = tmp_path / "site" / "plug_package"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "layers.py").write_text("from torch.nn import Linear\n")
    (package / "models" / "nets.py").write_text(FINE)
    assert rdfia("train", "strange", *SHORT, "-q").code == 0
    assert "changed" not in rdfia("train", "strange", *SHORT).err
    (package / "layers.py").write_text("from torch.nn import Bilinear\n")
    assert f"'{package}' changed since the run" in rdfia("train", "strange", *SHORT).err


def test_what_an_editor_leaves_beside_the_modules_harms_nothing(install, rdfia, tmp_path):
    install("edited", "", "[rdfia.models]\nstrange = plug_edited_package.nets:build\n")
    package = tmp_path / "site" / "plug_edited_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "nets.py").write_text(FINE)
    assert rdfia("train", "strange", *SHORT, "-q").code == 0
    (package / ".#nets.py").symlink_to("nobody@nowhere.1")
    (package / "gone.py").symlink_to("nowhere")
    (package / "folder.py").mkdir()
    again = rdfia("train", "strange", *SHORT)
    assert again.code == 0, again.err
    assert "changed" not in again.err


def test_an_older_record_without_packages_raises_no_alarm(install, rdfia, tmp_path):
    install("edited", FINE, "[rdfia.models]\nstrange = {module}:build\n")
    assert rdfia("train", "strange", *SHORT, "-q").code == 0
    path = tmp_path / "run" / "environment.json"
    stored = json.loads(path.read_bytes())
    assert list(stored.pop("packages")) == [str(tmp_path / "site" / "plug_edited.py")]
    path.write_text(json.dumps({**stored, "files": {"/somewhere/weights.pt": "0" * 64}}))
    assert "changed" not in rdfia("train", "strange", *SHORT).err


def component(distribution: str, module: str) -> registry.Component:
    return registry.Component(
        "models", "strange", module=module, attribute="build", distribution=distribution,
        version="1",
    )  # fmt: skip


def test_two_distributions_in_one_namespace_are_told_apart(tmp_path, monkeypatch):
    for name in ("one", "two"):
        folder = tmp_path / "plug_company" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "nets.py").write_text("def build(input):\n    raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    both = [component(f"company-{n}", f"plug_company.{n}.nets") for n in ("one", "two")]
    places = package_hashes(both)
    assert list(places) == [str(tmp_path / "plug_company" / name) for name in ("one", "two")]
    with pytest.raises(RuntimeError) as caught:
        importlib.import_module("plug_company.two.nets").build(None)
    assert find_culprit(caught.value, both) == both[1]


def test_what_a_plugin_announces_of_torch_is_not_its_own():
    announced = component("lazy", "torch.optim")
    assert package_hashes([announced]) == {}
    with pytest.raises(ValueError, match="learning rate") as caught:
        torch.optim.SGD([torch.zeros(1)], lr=-1)
    assert find_culprit(caught.value, [announced]) is None


TIRED = """
import torch

class Tired(torch.optim.SGD):
    def step(self, closure=None):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 3:
            raise {error}
        return super().step(closure)

def build(model, *, lr: float = 0.1):
    '''It gives up in its third step.'''
    return Tired(model.parameters(), lr=lr)
"""
ONE_EPOCH = ("mlp", *SHORT, "--batch-size", "20", "--json", "-q")


def test_a_plugin_that_fails_in_training_is_named(install, rdfia):
    source = TIRED.format(error="RuntimeError('no more')")
    install("lazy", source, "[rdfia.optimizers]\ntired = {module}:build\n")
    failed = rdfia("train", *ONE_EPOCH, "--optimizer", "tired")
    assert failed.code == 4
    assert failed.json["message"] == (
        "optimizer 'tired' of lazy 1.2 fails in training: RuntimeError: no more"
    )
    assert "plug_lazy.py" in rdfia("train", *ONE_EPOCH, "--optimizer", "tired", "--traceback").err


def test_a_function_of_a_file_that_fails_in_training_is_named(rdfia, tmp_path):
    (tmp_path / "mine.py").write_text(TIRED.format(error="KeyError('momentum')"))
    failed = rdfia("train", *ONE_EPOCH, "--optimizer", "./mine.py:build")
    assert failed.code == 4
    assert "mine.py:build" in failed.json["message"]
    assert failed.json["message"].endswith("fails in training: KeyError: 'momentum'")


@pytest.mark.parametrize("error", ["MemoryError()", "OSError(28, 'No space left on device')"])
def test_what_no_plugin_is_at_fault_for_keeps_its_own_words(install, rdfia, error):
    install("lazy", TIRED.format(error=error), "[rdfia.optimizers]\ntired = {module}:build\n")
    failed = rdfia("train", *ONE_EPOCH, "--optimizer", "tired")
    assert failed.code == 1
    assert "lazy" not in failed.json["message"]
