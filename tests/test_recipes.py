"""Each recipe is the row of the experiments' table that bears its name, and runs on other data."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rdfia_cli.config import RunConfig, resolve
from rdfia_cli.sources import Sources

CROP = ["random_crop", "horizontal_flip"]
# data, optimizer, learning rate, batch, epochs, normalisation, augmentations, schedule
ROWS = {
    "mlp-circles": ("circles", "sgd", 0.03, 10, 150, "train", [], "constant"),
    "mlp-circles-lr-high": ("circles", "sgd", 0.3, 10, 150, "train", [], "constant"),
    "mlp-circles-lr-low": ("circles", "sgd", 0.001, 10, 150, "train", [], "constant"),
    "mlp-circles-full-batch": ("circles", "sgd", 0.03, 200, 150, "train", [], "constant"),
    "mlp-circles-online": ("circles", "sgd", 0.03, 1, 150, "train", [], "constant"),
    "mlp-mnist": ("mnist", "sgd", 0.03, 100, 50, "none", [], "constant"),
    "cnn-cifar10": ("cifar10", "sgd", 0.1, 128, 20, "none", [], "constant"),
    "cnn-cifar10-lr-low": ("cifar10", "sgd", 0.01, 128, 20, "none", [], "constant"),
    "cnn-cifar10-batch-32": ("cifar10", "sgd", 0.1, 32, 20, "none", [], "constant"),
    "cnn-cifar10-normalize": ("cifar10", "sgd", 0.1, 128, 20, "train", [], "constant"),
    "cnn-cifar10-zca": ("cifar10", "sgd", 0.1, 128, 20, "zca:eps=0.01", [], "constant"),
    "cnn-cifar10-augment": ("cifar10", "sgd", 0.1, 128, 20, "train", CROP, "constant"),
    "cnn-cifar10-affine": (
        *("cifar10", "sgd", 0.1, 128, 20, "train"),
        *(["random_affine", *CROP], "constant"),
    ),
    "cnn-cifar10-exponential": ("cifar10", "sgd", 0.1, 128, 20, "train", CROP, "exponential"),
    "cnn-cifar10-step": ("cifar10", "sgd", 0.1, 128, 20, "train", CROP, "step"),
    "cnn-cifar10-adam": ("cifar10", "adam", 0.001, 128, 20, "train", CROP, "constant"),
    "cnn-cifar10-dropout": ("cifar10", "sgd", 0.1, 128, 20, "train", CROP, "exponential"),
    "cnn-cifar10-batchnorm": ("cifar10", "sgd", 0.1, 128, 20, "train", CROP, "exponential"),
    "vit-mnist": ("mnist", "adam", 0.001, 128, 10, "auto", ["random_crop"], "linear"),
}


def recipe(name: str) -> RunConfig:
    return resolve(Sources({}, recipe=name)).config


@pytest.mark.parametrize("name", ROWS)
def test_a_recipe_is_its_row(name: str):
    found = recipe(name)
    assert (
        *(found.data.name, found.optimizer.name, found.optimizer.parameters["lr"]),
        *(found.batch_size, found.epochs, found.normalize),
        *([chosen.name for chosen in found.augment], found.schedule.name),
    ) == ROWS[name]
    assert found.optimizer.parameters.get("momentum", 0.0) == 0.0


def test_dropout_and_batch_normalisation_come_one_by_one():
    names = ("exponential", "dropout", "batchnorm")
    models = [recipe(f"cnn-cifar10-{name}").model.parameters for name in names]
    assert [m["dropout"] for m in models] == [0.0, 0.5, 0.5]
    assert [m["batch_norm"] for m in models] == [False, False, True]


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_recipe_runs_on_the_embedded_digits(rdfia: Callable, name: str):
    words = ["--recipe", name, "--data", "digits", "--dry-run", "--json"]
    crops = [c.name for c in recipe(name).augment]
    flags = [f"--augment={a}:size=6" if a == "random_crop" else f"--augment={a}" for a in crops]
    patch = ["--set", "model.patch=2"] if name.startswith("vit") else []
    found = rdfia("train", *words, *flags, *patch)
    assert found.code == 0, found.err
    assert found.json["parameters"] > 0
