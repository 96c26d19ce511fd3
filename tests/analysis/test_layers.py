"""What a model costs layer by layer: the course's numbers, and published ones."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from rdfia_cli.analysis.explain import PUBLISHED, explain, weights_per_image
from rdfia_cli.analysis.memory import estimate_memory
from rdfia_cli.analysis.parameters import fold, measure, subtrees
from rdfia_cli.analysis.subject import build, request
from rdfia_cli.models.cnn import cnn
from rdfia_cli.spec import InputSpec

CIFAR, IMAGES = PUBLISHED["cifar10"]
pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_weights_of_the_course_s_cnn_layer_by_layer():
    layers = {layer.name: layer for layer in measure(cnn(CIFAR), CIFAR).layers}
    held = [layer for layer in layers.values() if layer.parameters]
    assert [layer.weights for layer in held] == [2_400, 51_200, 102_400, 1_024_000, 10_000]
    assert sum(layer.biases for layer in held) == 1_170
    assert layers["conv2"].outputs == ((1, 64, 16, 16),)


def test_the_linear_layers_hold_86_9_percent_of_the_weights_and_do_4_5_of_the_work():
    costs = measure(cnn(CIFAR), CIFAR)
    linear = [layer for layer in costs.layers if layer.type == "Linear"]
    assert round(100 * sum(x.weights for x in linear) / costs.total.weights, 1) == 86.9
    assert round(100 * sum(x.macs for x in linear) / costs.total.macs, 1) == 4.5
    assert (costs.total.parameters, costs.total.macs) == (1_191_170, 23_152_400)
    assert round(weights_per_image(costs, IMAGES), 1) == 23.8


def test_the_formula_of_a_convolution_and_what_stands_against_it():
    model = cnn(CIFAR)
    found = {e.layer.name: e for e in explain(model, measure(model, CIFAR))}
    assert found["conv2"].weights == "5*5*32*64"
    assert found["conv2"].macs == "51,200 weights * 16*16 positions"
    assert found["conv2"].fully_connected == 32 * 16 * 16 * 64 * 16 * 16
    assert found["conv2"].unshared == 5 * 5 * 32 * 64 * 16 * 16
    assert found["linear1"].unshared is None
    assert sum(e.parameter_share for e in found.values()) == pytest.approx(1)


class Tied(nn.Module):
    """Two layers of one weight, and a frozen one with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(4).requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norm(self.second(self.first(inputs)))


def test_a_shared_parameter_counts_once_and_is_marked_with_its_first_owner():
    costs = measure(Tied(), InputSpec((4,), 4))
    first, second, norm = costs.layers
    assert (first.parameters, second.parameters, second.shared) == (20, 0, "first")
    assert (first.macs, second.macs) == (16, 16)
    assert (costs.total.trainable, norm.buffers) == (20, 9)


def test_flops_are_two_a_mac_and_besides_one_for_each_bias_and_function_and_five_of_softmax():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Softmax(-1))
    assert measure(model, InputSpec((4,), 6)).total.flops == 2 * 24 + 6 + 6 + 5 * 6


@pytest.mark.parametrize("depth", [0, 1, 2, None])
def test_layers_add_up_to_the_total_at_every_depth(depth):
    subject = build(request("timm/vit_tiny_patch16_224"))
    costs = measure(subject.model, subject.input)
    layers = fold(costs, depth)
    for key in ("macs", "parameters", "trainable", "activations", "others"):
        assert sum(getattr(x, key) for x in layers) == getattr(costs.total, key)


def test_the_tree_gives_a_module_all_that_stands_below_it():
    subject = build(request("torchvision/resnet18"))
    tree = {x.name: x for x in subtrees(measure(subject.model, subject.input), 1)}
    layer = models.resnet18().layer1
    assert tree["layer1"].parameters == sum(p.numel() for p in layer.parameters())


def test_a_batch_takes_memory_and_its_arithmetic_is_told_of_one_example():
    one, four = (measure(cnn(CIFAR), CIFAR, batch=n) for n in (1, 4))
    assert four.total.activations == 4 * one.total.activations
    memory = [estimate_memory(costs)["fp32"].activations for costs in (one, four)]
    assert memory[1] == 4 * memory[0]
    for key in ("macs", "flops", "parameters", "buffers"):
        assert getattr(four.total, key) == getattr(one.total, key)


def value(formula: str) -> int:
    """What the numbers of a formula make; words in it are words."""
    plain = re.sub(r"\([^)]*\)|weights|positions|each once|,", "", formula)
    assert re.fullmatch(r"[\d+* ]+", plain), formula
    return eval(plain)


def assert_formulas_hold(model: nn.Module, fed: InputSpec, convention="macs", batch=1) -> list[str]:
    costs = measure(model, fed, convention=convention, batch=batch)
    found = list(explain(model, costs))
    for each in found:
        weights = value(each.weights) if each.weights else 0
        assert weights == each.layer.weights, (each.layer.name, each.weights)
        macs = value(each.macs) if each.macs else 0
        assert macs == each.layer.macs, (each.layer.name, each.macs)
    return [each.macs for each in found]


EXPLAINED = (
    *("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto", "regnetx_002"),
    *("efficientnet_b0", "mobilevit_xxs", "sequencer2d_s", "mixer_s32_224", "xcit_nano_12_p16_224"),
    *("maxvit_pico_rw_256", "nf_resnet26", "edgenext_xx_small", "eva02_tiny_patch14_224"),
)


@pytest.mark.parametrize("name", EXPLAINED)
@pytest.mark.parametrize("convention", ["macs", "fvcore"])
def test_the_numbers_of_every_formula_make_the_figure_of_its_row(name: str, convention: str):
    subject = build(request(f"timm/{name}"))
    assert_formulas_hold(subject.model, subject.input, convention, batch=2)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_is_explained_weight_by_weight(kind):
    (formula,) = assert_formulas_hold(kind(8, 5, batch_first=True), InputSpec((7, 8), 2))
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    terms = {f"7*8*{5 * gates} (weight_ih_l0)", f"7*5*{5 * gates} (weight_hh_l0)"}
    assert set(formula.split(" + ")) == terms


def test_an_attention_is_explained_by_what_it_multiplies():
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    formulas = assert_formulas_hold(attention, InputSpec((5, 8), 2))
    assert formulas[0].startswith("5*8*24 (in_proj_weight) + ")
    assert "5*8*8 (out_proj.weight)" in formulas[0]
    subject = build(request("vit"))
    explained = explain(subject.model, measure(subject.model, subject.input))
    found = next(each.macs for each in explained if each.layer.type == "Attention")
    tokens = subject.model.position_embedding.shape[1]
    words = ("queries by keys", "scores by values")
    sizes = (f"4*{tokens}*8*{tokens}", f"4*{tokens}*{tokens}*8")
    assert found == " + ".join(f"{s} ({w})" for s, w in zip(sizes, words, strict=True))


class PartlyTied(nn.Module):
    """Two matrices in one module, of which one stands in an earlier layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Module()
        self.second.left = self.first.weight
        self.second.right = nn.Parameter(torch.zeros(4, 3))
        self.third = nn.Linear(3, 3)
        self.third.weight = nn.Parameter(torch.zeros(3, 3))
        self.fourth = nn.Linear(3, 3)
        self.fourth.weight = self.third.weight

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs) @ self.second.left @ self.second.right
        return self.fourth(self.third(hidden))


SHARED_OR_COMPUTED = {
    "partly tied": (PartlyTied, (4,)),
    "weight norm": (lambda: nn.utils.weight_norm(nn.Conv2d(2, 3, 3)), (2, 5, 5)),
    "parametrized": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), (5,)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (4, 5, 5)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, 2, groups=2), (4, 9, 8)),
    "lstm": (lambda: nn.LSTM(4, 3, 2, bidirectional=True, proj_size=2), (5, 4)),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("name", SHARED_OR_COMPUTED)
def test_formulas_hold_where_weights_are_shared_or_computed(name: str):
    build_one, shape = SHARED_OR_COMPUTED[name]
    assert_formulas_hold(build_one(), InputSpec(shape, 2))


def test_memory_is_weights_gradients_state_and_what_backward_needs():
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    memory = estimate_memory(measure(model, InputSpec((5,), 2), batch=3))["fp32"]
    parameters = 5 * 7 + 7 + 7 * 2 + 2
    assert (memory.weights, memory.gradients) == (4 * parameters, 4 * parameters)
    assert memory.activations == 4 * 3 * (5 + 7)
    assert memory.total("adam") == 4 * 4 * parameters + memory.activations


# Published: vit_tiny and convmixer by timm's results, sequencer by its paper (Tatsunami 2022).
@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("vit_tiny_patch16_224", 1.254),
        ("sequencer2d_s", 8.33),
        ("convmixer_1024_20_ks9_p14", 5.95),
    ],
)
def test_timm_models_that_other_tools_get_wrong_take_their_published_macs(name, gmacs):
    subject = build(request(f"timm/{name}"))
    found = measure(subject.model, subject.input).total.macs / 1e9
    digits = len(str(gmacs).partition(".")[2])
    assert round(found, digits) == gmacs


def of_torchvision(name: str) -> None:
    published = models.get_model_weights(name).DEFAULT.meta
    subject = build(request(f"torchvision/{name}"))
    total = measure(subject.model, subject.input).total
    assert total.parameters == published["num_params"]
    assert total.macs / 1e9 == pytest.approx(published["_ops"], abs=1e-3)


@pytest.mark.parametrize("name", ["resnet18", "regnet_y_400mf", "squeezenet1_1", "mobilenet_v2"])
def test_torchvision_models_cost_what_is_published(name: str):
    of_torchvision(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models(module=models))
def test_every_torchvision_model_costs_what_is_published(name: str):
    of_torchvision(name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_timm_model_can_be_counted():
    for name in timm.list_models():
        subject = build(request(f"timm/{name}"))
        costs = measure(subject.model, subject.input)
        assert costs.total.parameters == sum(p.numel() for p in subject.model.parameters()), name
        assert costs.total.macs > 0, name
        assert not costs.uncounted, name


def test_a_vit_of_ten_billion_parameters_can_be_counted():
    spec = "timm/vit_giant_patch14_224:embed_dim=4096,depth=50,num_heads=32,mlp_ratio=4"
    subject = build(request(spec))
    total = measure(subject.model, subject.input).total
    block = 12 * 4096**2 + 13 * 4096
    assert total.parameters > 50 * block > 10**10


def test_building_a_model_draws_nothing():
    before = torch.get_rng_state()
    build(request("torchvision/regnet_y_400mf"))
    assert torch.equal(torch.get_rng_state(), before)
