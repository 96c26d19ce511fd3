"""`rdfia receptive-field`: the object, the table, the refusals, the pictures."""

from __future__ import annotations

import re

import pytest

from rdfia_cli.analysis import verification
from rdfia_cli.analysis.verification import Verdict

SMALL = ("cnn", "--input", "3x32x32")


def test_the_object_has_the_promised_fields(rdfia):
    content = rdfia("receptive-field", *SMALL, "--json").json
    assert content["schema"] == "rdfia.receptive-field/1"
    assert {"model", "input", "layers", "exact"} <= set(content)
    layers = {layer["name"]: layer for layer in content["layers"]}
    promised = {"name", "type", "output", "size", "stride", "padding", "global"}
    assert all(promised <= set(layer) for layer in layers.values())
    assert layers["conv2"]["size"] == [14, 14]
    assert layers["conv2"]["stride"] == [2, 2]
    assert layers["conv2"]["padding"] == [6, 6]
    assert layers["linear1"]["global"]
    assert content["exact"] is True


def test_several_models_give_an_object_a_line_in_their_order(rdfia):
    outcome = rdfia("receptive-field", "lenet", "cnn", "--input", "1x28x28", "--json")
    assert [found["model"] for found in outcome.objects] == ["lenet", "cnn"]


def test_a_model_that_fails_is_named_and_harms_no_other(rdfia, tmp_path):
    (tmp_path / "bad.py").write_text("def build(input):\n    raise ValueError('no such layer')\n")
    outcome = rdfia("receptive-field", "./bad.py:build", "cnn", "--input", "3x32x32", "--json")
    assert outcome.code == 4
    failed, found = outcome.objects
    assert failed["schema"] == "rdfia.error/1"
    assert failed["message"].startswith("./bad.py:build: ")
    assert "no such layer" in failed["message"]
    assert found["model"] == "cnn"


def test_what_a_verification_refutes_is_told_beside_the_object(rdfia, monkeypatch):
    found = Verdict("conv1", 0, 0, "Conv2d", bounds=4, larger=0, smaller=1)
    monkeypatch.setattr(verification, "verify", lambda *arguments: (found,))
    outcome = rdfia("receptive-field", "cnn", "--input", "1x8x8", "--verify", "--json")
    assert outcome.code == 1
    assert outcome.json["verified"]["smaller"] == ["conv1"]
    assert "cnn: NaN reached further than the analysis says in 1 module" in outcome.err


def test_a_position_tells_the_rows_and_columns_that_it_sees(rdfia):
    outcome = rdfia("receptive-field", *SMALL, "--layer", "conv2", "--position", "3,4", "--json")
    (layer,) = outcome.json["layers"]
    assert layer["rows"] == [0, 13]
    assert layer["columns"] == [2, 15]


def test_clipped_sizes_stay_within_the_image(rdfia):
    layers = rdfia("receptive-field", "cnn", "--input", "1x8x8", "--clip", "--json").json["layers"]
    assert max(max(layer["size"]) for layer in layers) == 8


def test_verification_finds_every_bound_equal(rdfia):
    verified = rdfia("receptive-field", "cnn", "--input", "1x8x8", "--verify", "--json").json[
        "verified"
    ]
    assert verified["bounds"] == verified["equal"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--layer", "conv9"), "did you mean 'conv3'?"),
        (("--position", "3"), "write --position y,x"),
        (("--position", "3,99"), "0,0 to 31,31"),
        (("--input", "3xx3"), "write --input CxHxW"),
        (("--plot", "absent/fields.png"), "give a .png or .svg file"),
        (("--data", "digts", "--effective"), "did you mean 'digits'?"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_used_is_refused_with_the_way_out(rdfia, arguments, words):
    outcome = rdfia("receptive-field", *SMALL, *arguments)
    assert outcome.code in (2, 4)
    assert words in outcome.err
    assert "Traceback" not in outcome.err


def test_the_effective_field_lies_within_the_theoretical_one(rdfia):
    outcome = rdfia(
        *("receptive-field", *SMALL, "--layer", "conv3", "--effective", "--images", "4", "--json")
    )
    (found,) = outcome.json["effective"]
    sides = [spread["side"] for spread in found["absolute"]]
    assert sides == sorted(sides)
    assert sides[0] > 0
    assert sides[-1] <= found["theoretical"][0]
    assert found["images"] == 4


def test_a_run_is_measured_before_and_after_training_and_drawn(rdfia, tmp_path):
    assert rdfia("train", "--epochs", "1", "-q", "--out", "run").code == 0
    outcome = rdfia(
        *("receptive-field", "run", "--layer", "conv2", "--effective", "--images", "4", "--json"),
        *("--plot", "fields.png"),
    )
    assert outcome.code == 0, outcome.err
    assert [entry["weights"] for entry in outcome.json["effective"]] == ["untrained", "trained"]
    assert (tmp_path / "fields.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_of_fp16_is_measured_in_fp32_and_its_warnings_are_told(rdfia, tmp_path):
    assert rdfia("train", "--epochs", "1", "-q", "--out", "run").code == 0
    path = tmp_path / "run" / "config.toml"
    changed = re.sub('precision = ".*"', 'precision = "fp16"', path.read_text())
    path.write_text(changed)
    (tmp_path / "run" / "result.json").unlink()
    outcome = rdfia(
        *("receptive-field", "run", "--layer", "conv2", "--effective", "--images", "4", "--json")
    )
    assert outcome.code == 0, outcome.err
    assert [entry["weights"] for entry in outcome.json["effective"]] == ["untrained", "trained"]
    assert "trained in fp16, which needs CUDA" in outcome.err
    assert "the run is not finished: 1 epoch done" in outcome.err


def test_what_a_picture_leaves_out_is_told(rdfia):
    arguments = ("receptive-field", "vit:depth=2", "--input", "1x28x28", "--layer", "blocks.*")
    found = rdfia(*arguments, "--plot", "fields.png", "--json", "-q")
    assert found.code == 0, found.err
    asked = len(found.json["layers"])
    assert f"warning: 'fields.png' outlines the first 6 of {asked} layers asked for" in found.err
    few = rdfia("receptive-field", "cnn", "--layer", "conv1", "--plot", "one.png", "--json", "-q")
    assert "outlines" not in few.err
