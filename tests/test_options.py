"""A setting has one flag, the same in every command that trains."""

from __future__ import annotations

import pytest
import typer

from rdfia_cli.app import app
from rdfia_cli.config import RunConfig
from rdfia_cli.run import load_config

pytestmark = pytest.mark.usefixtures("one_thread")
NO_FLAG = {"split_seed", "deterministic"}
"""Settings that --set alone sets."""
OTHERWISE = {
    "sweep": {"if_exists"},  # a sweep goes on
    "compare": {"model", "seed"},  # several of each
    "reproduce": {"model", "if_exists"},  # the recipes' models; what is complete is skipped
}
"""Settings that a command chooses by other means."""


def flags_of(command: str) -> dict[str, list[str]]:
    group = typer.main.get_group(app)
    return {flag.name or "": flag.opts for flag in group.commands[command].params}


def test_training_has_a_flag_for_every_setting():
    flags = flags_of("train")
    assert {*RunConfig.model_fields} - {*flags} == NO_FLAG


@pytest.mark.parametrize("command", list(OTHERWISE))
def test_the_same_setting_has_the_same_flag_in_every_command(command: str):
    here, there = flags_of(command), flags_of("train")
    settings = {key for key in there if key in RunConfig.model_fields or key == "lr"}
    assert settings - {*here} == OTHERWISE[command]
    assert all(here[key] == there[key] for key in settings & {*here})


def test_a_sweep_passes_its_flags_on_to_the_trials(rdfia):
    given = ("--device", "cpu", "--clip-norm", "1.5", "--early-stopping", "4")
    outcome = rdfia("sweep", "mlp", "--over", "lr=0.1,0.2", *given, "--dry-run")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert len(lines) == 2
    for words in ("clip_norm=1.5", "early_stopping=4", "device=cpu"):
        key, value = words.split("=")
        assert all(words in line or f"--{key.replace('_', '-')} {value}" in line for line in lines)


def test_a_comparison_passes_its_flags_on_to_the_runs(rdfia, tmp_path):
    given = ("--label-smoothing", "0.1", "--validation", "0.2", "--log-every", "10")
    outcome = rdfia(
        *("compare", "mlp", "--data", "digits", "--seeds", "0", "--epochs", "1", "-q", "--json"),
        *given,
    )
    assert outcome.code == 0, outcome.err
    config = load_config(tmp_path / outcome.json["models"][0]["runs"][0])
    assert (config.label_smoothing, config.validation, config.log_every) == (0.1, 0.2, 10)
