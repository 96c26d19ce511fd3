"""`rdfia augment` draws what training would be fed, and refuses what is no picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from rdfia_cli.commands.augment import shares

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_grid_is_drawn_and_its_path_printed(rdfia, tmp_path: Path):
    found = rdfia("augment", "--augment", "random_crop:size=7", "--augment", "mixup")
    assert (found.code, found.out) == (0, "augmented.png\n")
    with Image.open(tmp_path / "augmented.png") as picture:
        width, height = picture.size
    assert width > height > 500


def test_the_same_seed_draws_the_same_picture_and_another_another(rdfia, tmp_path: Path):
    for name, seed in (("a.png", "1"), ("b.png", "1"), ("c.png", "2")):
        arguments = ("--augment", "random_affine", "--samples", "2", "--draws", "2")
        assert rdfia("augment", *arguments, "--seed", seed, "--out", name).code == 0
    pictures = [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png")]
    assert pictures[0] == pictures[1] != pictures[2]


def test_a_few_images_are_enough_and_what_is_odd_about_them_is_said(rdfia, tmp_path, monkeypatch):
    monkeypatch.setenv("RDFIA_CACHE", str(tmp_path / "cache"))
    for name in ("猫/1", "猫/2", "dog/1", "dog/2"):
        path = tmp_path / f"photos/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), "red").save(path)
    (tmp_path / "photos/dog/notes.txt").touch()
    found = rdfia("augment", "--data", "folder:path=photos", "--samples", "9", "--json")
    assert found.code == 0, found.err
    assert found.json["samples"] == 2, "one of each class is for the test"
    warning, *others = [line for line in found.err.splitlines() if "warning" in line.lower()]
    assert "1 file in 'photos' left out" in warning
    assert others == []


def test_json_tells_what_was_drawn(rdfia):
    found = rdfia("augment", "--out", "a.svg", "--samples", "3", "--draws", "2", "--json").json
    assert found == {
        "schema": "rdfia.augment/1",
        "out": "a.svg",
        "samples": 3,
        "draws": 2,
        "shape": [1, 8, 8],
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--out", "a.gif"), "cannot draw"),
        (("--out", "nowhere/a.png"), "cannot draw"),
        (("--data", "circles"), "holds no pictures"),
        (("--augment", "random_crap"), "random_crop"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_written(rdfia, tmp_path, arguments, told):
    found = rdfia("augment", *arguments)
    assert found.code in (2, 4)
    assert told in found.err
    assert list(tmp_path.iterdir()) == []


def test_without_augmentations_it_is_said_that_nothing_is_augmented(rdfia):
    few = ("--samples", "1", "--draws", "1")
    assert "nothing is augmented" in rdfia("augment", *few).err
    assert "nothing is augmented" not in rdfia("augment", *few, "--augment", "mixup").err


def test_a_mixed_label_has_a_line_for_each_class():
    assert shares(torch.tensor([0.25, 0.0, 0.75]), ("cat", "ape", "dog")) == "dog 0.75\ncat 0.25"
    assert shares(torch.tensor([1.0, 0.0, 0.0]), ("cat", "ape", "dog")) == "cat 1.00"
