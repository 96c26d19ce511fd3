"""`rdfia param-count`: trees, comparisons, objects, gates and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdfia_cli.analysis.subject import expand
from rdfia_cli.commands.cost_tables import short_bytes
from rdfia_cli.commands.param_count import parse_amount
from rdfia_cli.errors import UsageError

FIELDS = {
    *("schema", "model", "input", "parameters", "trainable", "buffers", "macs", "flops"),
    *("activations", "layers"),
}
LAYER_FIELDS = {"name", "type", "output", "parameters", "weights", "biases", "macs"}
pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_object_has_the_fields_that_scripts_read(rdfia):
    content = rdfia("param-count", "cnn", "--json").json
    assert content.keys() >= FIELDS
    assert all(layer.keys() >= LAYER_FIELDS for layer in content["layers"])
    assert content["schema"] == "rdfia.parameters/1"
    assert (content["input"], content["parameters"]) == ([3, 32, 32], 1_191_170)
    assert content["macs"] == sum(layer["macs"] for layer in content["layers"])


def test_several_models_are_a_line_each_in_the_order_given(rdfia):
    outcome = rdfia("param-count", "mlp", "lenet", "torchvision/vgg1[13]", "--json", "--depth", "0")
    lines = outcome.objects
    assert [line["model"] for line in lines] == [
        *("mlp", "lenet", "torchvision/vgg11", "torchvision/vgg13"),
    ]


def test_several_models_are_one_table(rdfia):
    outcome = rdfia("param-count", "mlp", "lenet")
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["model", "mlp", "lenet"]


@pytest.mark.parametrize(
    ("limits", "code", "exceeded"),
    [
        (("--max-parameters", "2M", "--max-macs", "1G"), 0, []),
        (("--max-parameters", "1M"), 5, ["parameters"]),
        (("--max-parameters", "1M", "--max-macs", "23.15M"), 5, ["parameters", "macs"]),
        (("--max-macs", "23152400"), 0, []),
    ],
)
def test_a_limit_exceeded_is_exit_5_and_the_object_says_it(rdfia, limits, code, exceeded):
    outcome = rdfia("param-count", "cnn", "--json", *limits)
    assert outcome.code == code
    assert len(outcome.out.splitlines()) == 1
    assert outcome.json["macs"] == 23_152_400
    assert outcome.json["exceeded"] == exceeded
    assert ("above" in outcome.err) == (code == 5)


def test_bytes_keep_their_digits_in_every_unit():
    found = [short_bytes(n) for n in (0, 999, 1000, 999_000, 23_200_000, 1_250_000_000)]
    assert found == ["0 B", "999 B", "1.0 kB", "999.0 kB", "23.2 MB", "1.25 GB"]


@pytest.mark.parametrize(
    ("text", "amount"),
    [("5M", 5_000_000), ("1.5G", 1_500_000_000), ("300k", 300_000), ("7", 7), ("2b", 2 * 10**9)],
)
def test_amounts_have_units(text, amount):
    assert parse_amount("--max-macs", text) == amount


@pytest.mark.parametrize("text", ["", "M", "-1", "5 M M", "5X"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(UsageError, match="--max-macs"):
        parse_amount("--max-macs", text)


def test_one_of_input_and_classes_leaves_the_other_the_model_s_own(rdfia):
    content = rdfia("param-count", "timm/resnet18", "--classes", "10", "--json").json
    assert (content["input"], content["classes"]) == ([3, 224, 224], 10)
    content = rdfia("param-count", "cnn", "--input", "1x28x28", "--json").json
    assert (content["input"], content["classes"]) == ([1, 28, 28], 10)


def test_a_dataset_is_what_is_fed_and_whose_images_are_counted(rdfia):
    content = rdfia("param-count", "cnn", "--data", "cifar10", "--explain", "--json").json
    assert (content["images"], round(content["weights_per_image"], 1)) == (50_000, 23.8)
    assert content["explanations"][0]["weights"] == "5*5*3*32"
    content = rdfia("param-count", "cnn", "--data", "digits", "--json").json
    assert content["input"] == [1, 8, 8]


def test_a_run_is_counted_on_what_it_was_fed(rdfia):
    train = ("train", "cnn:batch_norm=true", "--augment", "random_crop:size=6", "--epochs", "1")
    assert rdfia(*train, "--out", "run", "-q").code == 0
    content = rdfia("param-count", "run", "--json").json
    assert (content["input"], content["classes"]) == ([1, 6, 6], 10)
    trained = json.loads(Path("run/result.json").read_bytes())
    assert content["parameters"] == trained["parameters"]


def test_an_older_run_that_does_not_tell_its_input_asks_for_it(rdfia):
    assert rdfia("train", "mlp", "--epochs", "1", "--out", "run", "-q").code == 0
    path = Path("run/environment.json")
    stored = json.loads(path.read_bytes())
    del stored["input"]
    path.write_text(json.dumps(stored))
    outcome = rdfia("param-count", "run")
    assert (outcome.code, "--input CxHxW" in outcome.err) == (2, True)
    assert rdfia("param-count", "run", "--input", "1x8x8", "--classes", "10").code == 0


def test_a_function_of_a_file_is_counted(rdfia):
    Path("mine.py").write_text(
        "from torch import nn\n"
        "def build(input, *, width: int = 3):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, width), nn.Linear(width, 10))\n"
    )
    content = rdfia("param-count", "./mine.py:build:width=5", "--input", "3x8x8", "--json").json
    assert content["parameters"] == 192 * 5 + 5 + 5 * 10 + 10


def test_a_model_that_fails_among_others_leaves_its_line_and_exit_4(rdfia):
    outcome = rdfia("param-count", "lenet", "mlp", "--input", "1x4x4", "--json")
    lines = outcome.objects
    assert [line["schema"] for line in lines] == ["rdfia.error/1", "rdfia.parameters/1"]
    assert "lenet: " in lines[0]["message"]
    assert outcome.code == 4


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("cnnn",), 4, "did you mean 'cnn'"),
        (("cnn", "--input", "3x32x"), 2, "--input 3x32x is no shape"),
        (("cnn", "--input", ""), 2, "--input '' is no shape"),
        (("cnn", "--input", f"3x{'9' * 20}x9"), 2, "is too large"),
        (("cnn", "--max-macs", "1e400"), 2, "is too large"),
        (("cnn", "--batch", "9" * 20), 2, "'--batch': 99999999999999999999 is not in the range"),
        (("cnn", "--classes", "9" * 20), 2, "'--classes': 99999999999999999999 is not in the"),
        (("cnn", "--convention", "fvcor"), 2, "did you mean 'fvcore'"),
        (("cnn", "--max-macs", "many"), 2, "is no amount"),
        (("torchvision/vgg99*",), 2, "no model is called"),
        (("cnn", "--input", "7"), 4, "needs images"),
        (("./absent.py:build",), 4, "cannot read './absent.py'"),
    ],
)
def test_what_cannot_be_is_refused_in_words(rdfia, arguments, code, told):
    outcome = rdfia("param-count", *arguments)
    assert outcome.code == code
    assert told in outcome.err


def test_the_tree_folds_what_lies_deeper(rdfia):
    shown = rdfia("param-count", "torchvision/resnet18", "--depth", "1").out
    assert "layer1" in shown
    assert "conv2" not in shown


def test_an_attention_s_explanation_tells_what_it_multiplies(rdfia):
    shown = rdfia("param-count", "vit", "--explain").out
    assert "4*17*8*17 (queries by keys) + 4*17*17*8 (scores by values) = 18,496" in shown


def test_many_models_say_now_and_then_how_far_they_are(rdfia, monkeypatch):
    models = ("param-count", "mlp", "lenet", "cnn", "--json", "--depth", "0")
    assert rdfia(*models).err == ""
    monkeypatch.setattr("rdfia_cli.commands.progress.SECONDS_BETWEEN_LINES", 0)
    outcome = rdfia(*models)
    assert "counting lenet (1 of 3 done)\ncounting cnn (2 of 3 done)" in outcome.err
    assert len(outcome.out.splitlines()) == 3


def test_the_explanation_fills_in_the_numbers(rdfia):
    shown = rdfia("param-count", "cnn", "--data", "cifar10", "--explain").out
    assert "5*5*32*64 = 51,200, and 64 biases" in shown
    assert "23.8 weights a train image" in shown


FILE = """\
import torch
from torch import nn

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        assert torch.ones(1).item() == 1
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
    def forward(self, inputs):
        return self.second(self.first(inputs))

class Looking(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)
    def forward(self, inputs):
        return self.layer(inputs) if inputs.sum().item() >= 0 else inputs

def tied(input): return Tied()
def looking(input): return Looking()
def lazy(input): return nn.LazyLinear(3)
def integers(input): return nn.Embedding(3, 3)
def weights(input, *, weights: int = 3): return nn.Linear(8, weights)
"""


@pytest.mark.parametrize(
    ("model", "parameters", "macs"),
    [
        ("tied", 72, 128),
        ("looking", 72, 64),
        ("lazy", 27, 24),
        ("weights:weights=5", 45, 40),
    ],
)
def test_a_model_of_one_s_own_is_counted_however_it_is_written(rdfia, model, parameters, macs):
    Path("mine.py").write_text(FILE)
    outcome = rdfia("param-count", f"./mine.py:{model}", "--input", "8", "--json")
    assert outcome.code == 0, outcome.err
    assert (outcome.json["parameters"], outcome.json["macs"]) == (parameters, macs)
    assert ("called on the CPU" in outcome.err) == (model == "looking")


def test_a_model_that_takes_integers_is_refused_by_name(rdfia):
    Path("mine.py").write_text(FILE)
    outcome = rdfia("param-count", "./mine.py:integers", "--input", "8")
    assert outcome.code == 4
    assert "model './mine.py:integers'" in outcome.err


def test_depth_0_is_one_row_with_the_model_s_output_and_all_that_it_costs(rdfia):
    content = rdfia("param-count", "cnn", "--depth", "0", "--json").json
    (layer,) = content["layers"]
    assert (layer["output"], layer["parameters"], layer["macs"]) == ([1, 10], 1_191_170, 23_152_400)
    row = rdfia("param-count", "cnn", "--depth", "0").out.splitlines()[2]
    assert row.startswith("(model)  Sequential ")
    assert "23,152,400" in row


def test_a_batch_takes_more_memory_and_a_limit_on_macs_is_of_one_example(rdfia):
    arguments = ("param-count", "cnn", "--batch", "4", "--max-macs", "23152400")
    outcome = rdfia(*arguments, "--json")
    assert outcome.code == 0
    assert outcome.json["macs"] == 23_152_400
    assert (
        outcome.json["activations"] == 4 * rdfia("param-count", "cnn", "--json").json["activations"]
    )
    assert "23,152,400 (23.15 M) an example" in rdfia(*arguments).out


def test_a_pattern_means_models_and_no_family(rdfia):
    found = expand(["*"])
    assert {"cnn", "vit"} <= {*found}
    assert not {"timm", "torchvision"} & {*found}


def test_a_pattern_of_a_large_family_that_means_none_names_no_member(rdfia):
    outcome = rdfia("param-count", "timm/nothing*")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "error: no model is called 'timm/nothing*'",
        "see rdfia list models 'timm/*'",
    ]
