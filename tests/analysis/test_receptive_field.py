"""Receptive fields against NaN in the real model and against the numbers of the literature."""

from __future__ import annotations

import copy
import time
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from rdfia_cli.analysis.intervals import separate
from rdfia_cli.analysis.layers import Analysis, analyse
from rdfia_cli.analysis.receptive_field import run_pass
from rdfia_cli.analysis.verification import verify
from rdfia_cli.errors import ComponentError
from rdfia_cli.models.cnn import cnn
from rdfia_cli.spec import InputSpec

pytestmark = pytest.mark.usefixtures("one_thread")


def on_meta(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("meta").eval()


def numbers(analysis: Analysis) -> dict[str, tuple[int, float, float]]:
    """Size, stride and padding of rows by the layer's name."""
    rows = {layer.name: layer.rows for layer in analysis.layers}
    return {name: (each.size, each.stride, each.padding) for name, each in rows.items()}


def assert_equals_nan(model: nn.Module, shape: tuple[int, ...]) -> None:
    verdicts = verify(on_meta(model), model.eval(), shape)
    assert verdicts
    assert not [v.name for v in verdicts if v.smaller]
    assert not [(v.name, v.kind) for v in verdicts if v.larger]


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x):
        return self.function(self.conv(x))


def overwrite_part(x):
    y = torch.zeros_like(x)
    y[:, 1:, 2:5] = x[:, 1:, 3:6]
    y[:, 0].add_(x[:, 0, :, :1])
    return y * 2


def halo(x):
    padded = F.pad(x, (1, 1, 1, 1))
    return padded.unfold(2, 5, 3).unfold(3, 5, 3).flatten(-2).softmax(-1)


def one_by_one(x):
    parts = [x[:, :2] * 1, x[:, 2:] * 1]
    torch._foreach_add_(parts, [part.roll(1, 2) for part in parts])
    return torch.cat(parts, 1)


def complex_parts(x):
    numbers = torch.view_as_complex(x.unflatten(3, (6, 2)).contiguous())
    return torch.view_as_real(numbers * numbers.roll(1, 2))


causal = partial(F.scaled_dot_product_attention, is_causal=True)


OPERATIONS = {
    "strided": nn.Conv2d(4, 4, 3, stride=2),
    "dilated": nn.Conv2d(4, 4, 3, dilation=3, padding=2),
    "grouped": nn.Conv2d(4, 4, 3, groups=2),
    "padding alone": nn.Conv2d(4, 4, 1, padding=2),
    "same": nn.Conv2d(4, 4, 3, dilation=2, padding="same"),
    "reflect": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
    "circular": nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    "transposed": nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1),
    "transposed, grouped": nn.ConvTranspose2d(4, 4, 5, stride=3, dilation=2, groups=2),
    "ceil": nn.MaxPool2d(3, 2, ceil_mode=True),
    "average": nn.AvgPool2d(3, 2, padding=1),
    "adaptive": nn.AdaptiveAvgPool2d(5),
    "adaptive maximum": nn.AdaptiveMaxPool2d((3, 7)),
    "group norm": nn.GroupNorm(2, 4),
    "instance norm": nn.InstanceNorm2d(4),
    "batch norm": nn.BatchNorm2d(4),
    "nearest": nn.Upsample(scale_factor=2),
    "bilinear": nn.Upsample(size=(17, 7), mode="bilinear"),
    "aligned": nn.Upsample(size=(17, 7), mode="bilinear", align_corners=True),
    "bicubic": nn.Upsample(scale_factor=1.5, mode="bicubic"),
    "pixel shuffle": nn.PixelShuffle(2),
    "pixel unshuffle": nn.PixelUnshuffle(2),
    "channel shuffle": nn.ChannelShuffle(2),
    "unfold": nn.Unfold(3, stride=2, padding=1),
    "roll": lambda x: x.roll((2, -3), (2, 3)),
    "flip": lambda x: x.flip(2),
    "pad": lambda x: F.pad(x, (3, 0, 1, -2)) + x.mean(),
    "channel pad": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)).amax(1),
    "cat": lambda x: torch.cat([x, F.avg_pool2d(x, 3, 1, 1)], 1),
    "stack": lambda x: torch.stack([x, x.flip(3)], 2).flatten(1, 2),
    "gate": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "axial": lambda x: x.softmax(2),
    "cumulative": lambda x: x.cumsum(3),
    "split": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "windows": lambda x: x.unflatten(2, (3, 4)).unflatten(4, (3, 4)).transpose(3, 4).sum((3, 5)),
    "columns first": lambda x: x.permute(0, 3, 2, 1).reshape(1, -1, 4).mean(2),
    "tokens": lambda x: F.layer_norm(x.flatten(2).transpose(1, 2), (4,)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcdh", x, x),
    "matmul": lambda x: x @ x.transpose(-1, -2),
    "overwritten views": overwrite_part,
    "overlapping windows": halo,
    "fourier": lambda x: torch.fft.rfft(x, dim=2).real,
    "repeat": lambda x: x.repeat(1, 1, 2, 1).repeat_interleave(2, dim=3),
    "norm": lambda x: F.normalize(x, dim=1),
    "index": lambda x: x[:, :, 2] + x[..., -1:].squeeze(-1),
    "filled": lambda x: torch.zeros_like(x).fill_(x[0, 0, 2, 3]),
    "larger of two": lambda x: torch.max(torch.zeros_like(x), x.roll(2, 3)),
    "statistics": lambda x: F.batch_norm(x, x[0, :, 2, 3], x[0, :, 4, 5] ** 2),
    "strided view": lambda x: x.transpose(2, 3).as_strided((1, 4, 6, 6), (0, 144, 24, 2)) * 1,
    "triangle": lambda x: x.tril(1).triu(-2),
    "data": lambda x: F.max_pool2d(x.data, 3, 1, 1) + x[..., :1].data,
    "list in place": lambda x: one_by_one(x),
    "narrow from the end": lambda x: x.narrow(3, -4, 3),
    "computed slopes": lambda x: F.prelu(-torch.ones_like(x), x[0, :, 3, 4]),
    "complex": lambda x: complex_parts(x),
    "causal": lambda x: causal(x[..., :8, :], x, x[..., 1:]),
    "causal, more queries": lambda x: causal(x, x[..., :5, :], x[..., 2:7, :]),
    "aligned by a factor": lambda x: F.interpolate(
        x[:, :, :6], scale_factor=1.3, mode="bilinear", align_corners=True
    ),
    "fold": lambda x: F.fold(F.unfold(x, 3, stride=2), (12, 12), 3, stride=2),
}


WITHOUT_EXACT_RULE = ("strided view", "list in place")


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_sees_what_nan_reaches(name: str):
    model, shape = Lambda(OPERATIONS[name]), (2, 12, 12)
    if name in WITHOUT_EXACT_RULE:
        assert not [v.name for v in verify(on_meta(model), model.eval(), shape) if v.smaller]
        assert analyse(on_meta(model), shape).layers[0].approximations
    else:
        assert_equals_nan(model, shape)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("layers", [1, 2])
def test_recurrent_layers_see_what_nan_reaches(kind, layers):
    layer = kind(4, 3, num_layers=layers, batch_first=True, bidirectional=layers == 1)

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x[0].permute(1, 2, 0))[0] * 1

    assert_equals_nan(Recurrent(), (4, 6, 5))


class FromState(nn.Module):
    """A recurrent layer over constants, whose first state is computed from the image."""

    def __init__(self, kind):
        super().__init__()
        self.layer = kind(3, 4, batch_first=True)

    def forward(self, x):
        state = x[..., 2, 3][None]
        states = (state, state) if isinstance(self.layer, nn.LSTM) else state
        return self.layer(torch.zeros(1, 5, 3, device=x.device), states)[0] * 1


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_first_state_reaches_every_step(kind):
    assert_equals_nan(FromState(kind), (4, 6, 5))


class Chosen(nn.Module):
    """Picks rows of a table by what the image says; NaN does not pass through an index."""

    def forward(self, x):
        index = x[0, 0, 2:4].argmax(1)
        return torch.arange(20.0, device=x.device).reshape(5, 4).index_select(1, index % 4)


def test_an_index_computed_from_the_image_is_a_dependency():
    (output,) = run_pass(Chosen(), (1, 6, 6), separate).outputs
    assert output.kept.rows.reshape(2, -1).tolist() == [[2, 3], [-2, -3]]


def test_an_operation_without_a_rule_sees_everything_and_is_named():
    model = Lambda(lambda x: torch.linalg.matrix_exp(x))
    (layer, _) = analyse(on_meta(model), (2, 12, 12)).layers
    assert "linalg_matrix_exp" in layer.approximations
    assert layer.rows.size == layer.columns.size == 12


def index(*numbers: int, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(numbers, device=like.device)


def changed_index(x: torch.Tensor) -> torch.Tensor:
    places = torch.arange(12, device=x.device).reshape(3, 4).flip(1)
    places[1:, 2] = 7
    return x[:, :, places]


KNOWN_INDEX = {
    "one axis": lambda x: x[:, :, index(0, 5, 5, like=x)],
    "from the end": lambda x: x[:, :, index(-1, 2, like=x)],
    "two axes": lambda x: x[:, :, index(0, 5, like=x)[:, None], index(3, 1, 7, like=x)],
    "apart": lambda x: x[:, index(0, 1, like=x), :, index(3, 8, like=x)],
    "computed": changed_index,
    "grid": lambda x: x[
        ..., torch.meshgrid(index(1, 3, like=x), index(2, like=x), indexing="ij")[0]
    ],
    "select": lambda x: x.index_select(3, index(9, 0, like=x)),
    "gather": lambda x: x.gather(2, index(4, 2, like=x)[:, None].expand(1, 4, 2, 9)),
    "along": lambda x: torch.take_along_dim(x, index(3, like=x).reshape(1, 1, 1, 1), 3),
    "repeats": lambda x: x[:, :, :3].repeat_interleave(index(2, 0, 3, like=x), 2, output_size=5),
    "empty rows": lambda x: F.pad(x, (1, 1, 1, 1))[:, :, index(0, 4, like=x)],
}


@pytest.mark.parametrize("name", KNOWN_INDEX)
def test_an_index_made_on_the_way_is_exact(name: str):
    model, shape = Lambda(KNOWN_INDEX[name]), (2, 12, 12)
    assert_equals_nan(model, shape)
    assert not analyse(on_meta(model), shape).layers[0].approximations


class Held(nn.Module):
    """Picks columns by an index that is a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("index", torch.tensor([1, 4, 4]))

    def forward(self, x):
        return F.avg_pool2d(x, 3, 1)[..., self.index]


def test_an_index_that_the_model_holds_is_exact_where_its_numbers_can_be_had():
    assert_equals_nan(Held(), (1, 9, 9))
    (unknown,), (known,) = (
        analyse(on_meta(Held()), (1, 9, 9), realise=realise).layers for realise in (None, Held)
    )
    assert (unknown.approximations, known.approximations) == (("index",), ())
    assert [layer.seen.largest[1] for layer in (unknown, known)] == [9, 3]


def test_a_constant_that_the_image_was_written_into_is_none_any_more():
    def overwrite(x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(12, device=x.device)
        places[2:3] = x[0, 0, 0, :1].argmax()
        return x[:, :, places]

    model = Lambda(overwrite)
    assert "index" in analyse(on_meta(model), (2, 12, 12)).layers[0].approximations


CNN = {"conv1": 5, "pool1": 6, "conv2": 14, "pool2": 16, "conv3": 32, "pool3": 36}


@pytest.mark.parametrize("side", [8, 28, 32])
def test_the_fields_of_the_course_s_cnn_on_any_image(side: int):
    found = numbers(analyse(on_meta(cnn(InputSpec((3, side, side), 10))), (3, side, side)))
    assert {name: found[name][0] for name in CNN} == CNN
    assert [found[f"conv{n}"][1:] for n in "123"] == [(1, 2), (2, 6), (4, 14)]


def test_the_head_of_the_cnn_sees_the_whole_image():
    analysis = analyse(on_meta(cnn(InputSpec((3, 32, 32), 10))), (3, 32, 32))
    head = next(layer for layer in analysis.layers if layer.name == "linear1")
    assert head.is_global
    assert (head.rows.size, head.columns.size) == (32, 32)
    assert analysis.is_fixed


def torchvision_model(name: str) -> nn.Module:
    options = {"init_weights": True} if name == "inception_v3" else {}
    with torch.device("meta"):
        return torchvision.models.get_model(name, **options).eval()


def test_vgg16_sees_212_pixels_at_stride_32_and_padding_90():
    found = numbers(analyse(torchvision_model("vgg16"), (3, 224, 224)))
    assert found["features"] == found["features.30"] == found["avgpool"] == (212, 32, 90)


def test_resnet50_of_torchvision_sees_427_pixels():
    found = numbers(analyse(torchvision_model("resnet50"), (3, 224, 224)))
    assert found["layer4"] == (427, 32, 213)


INCEPTION = {
    **{"Conv2d_1a_3x3": 3, "Conv2d_2a_3x3": 7, "Conv2d_2b_3x3": 11, "maxpool1": 15},
    **{"Conv2d_3b_1x1": 15, "Conv2d_4a_3x3": 23, "maxpool2": 31},
    **{"Mixed_5b": 63, "Mixed_5c": 95, "Mixed_5d": 127, "Mixed_6a": 159, "Mixed_6b": 351},
    **{"Mixed_6c": 543, "Mixed_6d": 735, "Mixed_6e": 927, "Mixed_7a": 1055, "Mixed_7b": 1183},
    "Mixed_7c": 1311,
}
"""Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill
2019: 1311 at the last endpoint; the others by their formula from the published kernels."""


def test_inception_v3_sees_1311_pixels_endpoint_by_endpoint():
    found = numbers(analyse(torchvision_model("inception_v3"), (3, 299, 299)))
    assert {name: found[name][0] for name in INCEPTION} == INCEPTION


def test_an_attention_over_all_tokens_is_global_and_what_is_before_it_is_not():
    with torch.device("meta"):
        model = timm.create_model("test_vit").eval()
    layers = {layer.name: layer for layer in analyse(model, (3, 160, 160)).layers}
    assert (layers["norm_pre"].rows.size, layers["norm_pre"].rows.stride) == (16, 16)
    assert not layers["norm_pre"].is_global
    assert layers["blocks.0"].is_global
    assert layers["blocks.0"].rows.size == 160


def test_squeeze_and_excitation_is_global_and_its_input_is_not():
    with torch.device("meta"):
        model = timm.create_model("test_efficientnet").eval()
    layers = {layer.name: layer for layer in analyse(model, (3, 160, 160)).layers}
    gates = [name for name, layer in layers.items() if layer.kind == "SqueezeExcite"]
    assert gates
    assert all(layers[name].is_global for name in gates)
    assert not layers["conv_stem"].is_global


def test_a_clipped_field_is_no_larger_than_the_image():
    clipped = analyse(torchvision_model("resnet50"), (3, 224, 224), clip=True)
    assert max(layer.rows.size for layer in clipped.layers) == 224
    assert numbers(clipped)["layer1"] == (35, 4, 17)


def test_calls_come_in_the_order_in_which_they_begin_and_each_has_a_row():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Sequential(nn.ReLU()), nn.Conv2d(1, 1, 3))
    model[2] = model[0]
    layers = analyse(on_meta(model), (1, 9, 9)).layers
    assert [(layer.name, layer.call) for layer in layers] == [
        ("", 0), ("0", 0), ("1", 0), ("1.0", 0), ("0", 1)
    ]  # fmt: skip
    assert [layer.rows.size for layer in layers] == [5, 3, 3, 3, 5]


def test_a_model_that_fails_on_its_input_is_refused():
    with pytest.raises(ComponentError, match="fails on an input of 3x4x4"):
        analyse(on_meta(nn.Conv2d(3, 3, 7)), (3, 4, 4))


class Deciding(nn.Conv2d):
    """What it computes depends on what it sees."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.sum().item() > 0 else -images)


def test_a_model_that_asks_for_numbers_is_not_said_to_be_of_the_wrong_size():
    def realise():
        return Deciding(3, 3, 7)

    with pytest.raises(ComponentError, match="asks for numbers") as caught:
        analyse(on_meta(realise()), (3, 8, 8), realise=realise)
    assert "item()" in caught.value.remedy
    with pytest.raises(ComponentError, match="fails on an input of 3x4x4") as caught:
        analyse(on_meta(realise()), (3, 4, 4), realise=realise)
    assert "--input" in caught.value.remedy


def test_every_layer_of_resnet152_in_a_second():
    model = torchvision_model("resnet152")
    analyse(torchvision_model("resnet18"), (3, 224, 224))
    clock = time.process_time()
    assert len(analyse(model, (3, 224, 224)).layers) > 500
    assert time.process_time() - clock < 1


SMALL = ("test_vit", "test_resnet", "test_convnext", "test_efficientnet", "test_byobnet")


@pytest.mark.parametrize("name", SMALL)
def test_small_models_of_timm_equal_nan_in_every_module(name: str):
    side = {"test_vit": 160}.get(name, 64)
    assert_equals_nan(timm.create_model(name, num_classes=4), (3, side, side))
