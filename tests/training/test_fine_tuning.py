"""Fine-tuning: what is frozen stays to the bit, and each layer learns at its own rate."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from rdfia_cli.errors import UsageError
from rdfia_cli.models.cnn import cnn
from rdfia_cli.models.perceptron import mlp
from rdfia_cli.models.vit import vit
from rdfia_cli.optimizers import adamw
from rdfia_cli.spec import InputSpec
from rdfia_cli.training.fine_tuning import (
    freeze_backbone,
    frozen_modules,
    parameter_depths,
    scale_rates,
)

pytestmark = pytest.mark.usefixtures("one_thread")
DIGITS = InputSpec((1, 8, 8), 10)


def test_depths_follow_the_names_up_to_their_first_number():
    depths = parameter_depths(vit(DIGITS, dim=8, depth=3, patch=4))
    assert depths["class_token"] == depths["position_embedding"] == 0
    assert depths["patch_embedding.weight"] == 1
    assert [depths[f"blocks.{i}.mlp.hidden.bias"] for i in range(3)] == [2, 3, 4]
    assert depths["norm.weight"] == 5
    assert depths["head.weight"] == depths["head.bias"] == 6


def test_depths_of_a_plain_network_count_its_layers():
    depths = parameter_depths(cnn(DIGITS))
    order = ("conv1", "conv2", "conv3", "linear1", "linear2")
    assert [depths[f"{layer}.weight"] for layer in order] == [0, 1, 2, 3, 4]


def test_layer_decay_gives_each_layer_a_power_of_it_and_the_head_its_factor():
    model = vit(DIGITS, dim=8, depth=2, patch=4)
    optimizer = adamw(model, lr=0.1, weight_decay=0.03)
    scale_rates(optimizer, model, layer_decay=0.5, head_factor=10)
    depths = parameter_depths(model)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        below = max(depths.values()) - depths[name]
        expected = 1.0 if below == 0 else 0.1 * 0.5**below
        assert rates[id(parameter)] == pytest.approx(expected)
    assert optimizer.param_groups[0]["params"][0] is model.head.weight
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.03}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(depths)


def test_groups_that_the_optimizer_made_keep_their_own_settings():
    model = cnn(DIGITS)
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scale_rates(optimizer, model, layer_decay=0.5, head_factor=1)
    for group in optimizer.param_groups:
        is_weight = group["params"][0].ndim > 1
        assert group["weight_decay"] == (0.1 if is_weight else 0)
    found = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert found[id(model.conv1.bias)] == pytest.approx(0.2 * 0.5**4)
    assert found[id(model.linear2.weight)] == pytest.approx(0.1)


def test_no_decay_leaves_the_optimizer_as_it_was():
    model = cnn(DIGITS)
    optimizer = adamw(model)
    scale_rates(optimizer, model, layer_decay=1, head_factor=1)
    assert len(optimizer.param_groups) == 1


def test_freezing_leaves_the_head_alone_to_learn():
    model = cnn(DIGITS, batch_norm=True)
    freeze_backbone(model)
    frozen = frozen_modules(model)
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learning == ["linear2.weight", "linear2.bias"]
    assert model.norm1 in frozen
    assert model.linear2 not in frozen
    assert model.relu1 in frozen
    assert model not in frozen


def test_nothing_is_dropped_below_a_head_that_learns_alone():
    model = vit(DIGITS, dim=8, depth=2, patch=4, dropout=0.5, stochastic_depth=0.5)
    freeze_backbone(model)
    model.train()
    for part in frozen_modules(model):
        part.eval()
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize(
    "model", [mlp(DIGITS, backprop="manual"), nn.Sequential(nn.Flatten(), nn.Linear(64, 10))]
)
def test_what_has_nothing_below_its_head_is_refused(model: nn.Module):
    with pytest.raises(UsageError, match="freeze = backbone"):
        freeze_backbone(model)


def train(rdfia, *arguments: str) -> dict:
    outcome = rdfia("train", *arguments, "--json", "-q")
    assert outcome.code == 0, outcome.err
    return outcome.json


def weights(folder) -> dict[str, torch.Tensor]:
    newest = max((folder / "checkpoints").iterdir(), key=lambda path: int(path.name))
    return load_file(newest / "model.safetensors")


def test_a_frozen_backbone_keeps_its_bits_statistics_included(rdfia, tmp_path):
    model = "cnn:batch_norm=true,dropout=0.2"
    train(rdfia, model, "--freeze", "backbone", "--epochs", "1", "--out", "one")
    train(rdfia, model, "--freeze", "backbone", "--epochs", "2", "--out", "two")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    changed = {name for name in one if not torch.equal(one[name], two[name])}
    assert changed == {"linear2.weight", "linear2.bias"}


def test_weights_of_a_run_start_another_with_their_input_statistics(rdfia, tmp_path):
    first = ("vit:dim=16,patch=4", "--epochs", "2", "--out", "first")
    train(rdfia, *first)
    newest = max((tmp_path / "first/checkpoints").iterdir(), key=lambda path: int(path.name))
    start = f"vit:dim=16,patch=4,weights={newest / 'model.safetensors'}"
    again = train(rdfia, start, "--epochs", "1", "--lr", "0", "--out", "second")
    kept = json.loads((tmp_path / "first/result.json").read_text())
    assert again["test"]["accuracy"] == pytest.approx(kept["test"]["accuracy"], abs=0.01)
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    for name in ("input_statistics.mean", "input_statistics.std"):
        assert torch.equal(before[name], after[name])


@pytest.mark.parametrize("normalize", ["none", "zca"])
def test_whatever_normalised_a_run_normalises_those_that_start_from_it(rdfia, tmp_path, normalize):
    model = "vit:dim=16,patch=4"
    train(rdfia, model, "--normalize", normalize, "--epochs", "2", "--out", "first")
    newest = max((tmp_path / "first/checkpoints").iterdir(), key=lambda path: int(path.name))
    start = f"{model},weights={newest / 'model.safetensors'}"
    again = train(rdfia, start, "--epochs", "1", "--lr", "0", "--out", "second")
    kept = json.loads((tmp_path / "first/result.json").read_text())
    assert again["test"]["loss"] == pytest.approx(kept["test"]["loss"], rel=0.01)


def test_a_run_is_evaluated_and_resumed_without_the_file_that_it_started_from(rdfia, tmp_path):
    train(rdfia, "vit:dim=16,patch=4", "--epochs", "1", "--out", "first")
    newest = max((tmp_path / "first/checkpoints").iterdir(), key=lambda path: int(path.name))
    file = (newest / "model.safetensors").rename(tmp_path / "start.safetensors")
    command = (f"vit:dim=16,patch=4,weights={file}", "--epochs", "1", "--out", "second")
    train(rdfia, *command)
    file.unlink()
    (tmp_path / "second/result.json").unlink()
    assert train(rdfia, *command)["epochs"] == 1
    assert rdfia("eval", "second").code == 0


def test_a_run_says_that_the_file_which_it_started_from_changed_and_keeps_its_own(rdfia, tmp_path):
    train(rdfia, "vit:dim=16,patch=4", "--epochs", "1", "--out", "one")
    train(rdfia, "vit:dim=16,patch=4", "--epochs", "1", "--seed", "1", "--out", "other")
    one, other = (
        next((tmp_path / n).glob("checkpoints/*/model.safetensors")) for n in ("one", "other")
    )
    file = shutil.copy(one, tmp_path / "start.safetensors")
    command = (
        "train",
        "vit:dim=16,patch=4,weights=start.safetensors",
        "--epochs",
        "1",
        "--out",
        "run",
    )
    assert "changed" not in rdfia(*command).err
    began = json.loads((tmp_path / "run/environment.json").read_text())
    assert began["files"] == {str(file): hashlib.sha256(one.read_bytes()).hexdigest()}
    finished = (tmp_path / "run/result.json").read_text()
    shutil.copy(other, file)
    assert f"'{file}' changed since the run in 'run' began" in rdfia(*command).err
    (tmp_path / "run/result.json").unlink()
    resumed = rdfia(*command, "--json")
    assert f"'{file}' changed since the run in 'run' began" in resumed.err
    assert resumed.json["weights_sha256"] == json.loads(finished)["weights_sha256"]


RATES = ("--layer-decay", "0.7", "--head-lr-factor", "3", "--schedule", "one_cycle")


@pytest.mark.parametrize(
    "chosen",
    [
        ("vit:dim=16,patch=4,dropout=0.1,stochastic_depth=0.1", "--optimizer", "adamw", *RATES),
        ("cnn:batch_norm=true,dropout=0.2", "--freeze", "backbone", "--ema-decay", "0.9"),
    ],
    ids=["layer_decay", "freeze"],
)
def test_fine_tuning_resumes_to_the_same_bytes(rdfia_process, tmp_path, chosen):
    whole = train(rdfia_process, *chosen, "--epochs", "2", "--out", "whole")
    code = (
        "import os, sys\n"
        "from rdfia_cli.training import checkpoint\n"
        "save = checkpoint.save\n"
        "def once(*arguments):\n"
        "    save(*arguments)\n"
        "    os.kill(os.getpid(), 9)\n"
        "checkpoint.save = once\n"
        "checkpoint.Rhythm.due = lambda self, epoch_ended: epoch_ended\n"
        "from rdfia_cli.app import main\n"
        "main()\n"
    )
    import subprocess
    import sys

    command = [sys.executable, "-c", code, "train", *chosen, "--epochs", "2", "--out", "killed"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -9
    resumed = train(rdfia_process, *chosen, "--epochs", "2", "--out", "killed")
    assert resumed["weights_sha256"] == whole["weights_sha256"]
