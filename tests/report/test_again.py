"""The command that a page shows makes the same run again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from rdfia_cli import recipe
from rdfia_cli.app import app
from rdfia_cli.config import PLACEMENT, RunConfig, resolve
from rdfia_cli.report.again import command_line, settings
from rdfia_cli.sources import Sources, sources_of

OTHERS = {
    **{"epochs": "3", "batch_size": "4", "seed": "5", "normalize": "zca:eps=0.5"},
    **{"validation": "0.5", "split_seed": "6", "precision": "bf16", "device": "cpu"},
    **{"deterministic": "false", "log_every": "7", "label_smoothing": "0.1"},
    **{"class_weights": "[1, 2.5]", "clip_norm": "1.5", "ema_decay": "0.99"},
    **{"early_stopping": "8", "freeze": "backbone", "layer_decay": "0.75"},
    **{"head_lr_factor": "10.0", "model": "cnn:dropout=0.25", "data": "digits:test_every=3"},
    **{"optimizer": "adamw:lr=3e-05", "schedule": "cosine:warmup=0.5"},
    **{"augment": '["random_crop:size=6", "horizontal_flip"]'},
}


def parsed(command: str) -> RunConfig:
    """What the command line makes of a command, as a shell gives it its words."""
    script = f"rdfia() {{ printf '%s\\0' \"$@\"; }}\n{command}\n"
    shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    subcommand, *words, _ = shell.stdout.split("\0")
    assert subcommand == "train"
    train = get_command(app).commands["train"]  # pyright: ignore
    flags = train.make_context("train", words).params
    return resolve(sources_of(flags, os.environ)).config


@pytest.mark.parametrize("key", sorted({*RunConfig.model_fields} - PLACEMENT))
def test_every_setting_comes_back(key: str):
    config = resolve(Sources({}, assignments=[f"{key}={OTHERS[key]}"])).config
    assert config.identity != resolve(Sources({})).config.identity
    assert parsed(command_line(config)).identity == config.identity


def test_all_settings_at_once_come_back():
    assignments = [f"{key}={value}" for key, value in OTHERS.items()]
    config = resolve(Sources({}, assignments=assignments)).config
    assert parsed(command_line(config)).digest == config.digest


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_comes_back(name: str):
    config = resolve(Sources({}, recipe=name, sweep=True)).config
    assert parsed(command_line(config)).digest == config.digest


@pytest.mark.parametrize(
    "path", ["photos", "my photos", "it's", "a,b", 'say "hi"', "$HOME;`id`", "<b>", "äöü"]
)
def test_a_hostile_path_comes_back_as_one_word(path: str):
    config = resolve(Sources({"data": "folder"}, assignments=[f"data.path={path}"])).config
    assert config.data.parameters["path"] in (path, Path(path))
    assert parsed(command_line(config)).digest == config.digest


def test_settings_tell_which_are_not_the_defaults():
    found = settings(resolve(Sources({"epochs": "3"}, assignments=["model.dropout=0.5"])).config)
    changed = {key: text for key, (text, usual) in found.items() if not usual}
    assert changed["epochs"] == "3"
    assert changed["model.dropout"] == "0.5"
    assert found["seed"] == ("0", True)
    assert found["model.batch_norm"] == ("false", True)
    assert "out" not in found


def test_a_run_without_a_flag_has_only_usual_settings_and_another_component_is_none():
    assert all(usual for _, usual in settings(resolve(Sources({})).config).values())
    chosen = {"model": "mlp", "data": "circles", "optimizer": "adam", "schedule": "constant"}
    found = settings(resolve(Sources({**chosen, "augment": ["mixup"]})).config)
    changed = {key for key, (_, usual) in found.items() if not usual}
    assert changed == {*chosen, "augment.0"}
