"""Every operation is counted alike wherever it runs, against formulas and torch's own counter."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rdfia_cli.analysis.counting import count_pass

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
]


class Function(nn.Module):
    """A module around a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, inputs: Tensor):
        return self.function(inputs)


def counted(model: nn.Module, inputs: Tensor, convention="macs", **options) -> tuple[int, int, int]:
    """Multiply-accumulates, other operations and activations."""
    ledger = count_pass(model.eval(), inputs, convention, **options)
    assert not ledger.uncounted
    tallies = ledger.tallies.values()
    return tuple(sum(getattr(t, key) for t in tallies) for key in ("macs", "others", "activations"))


def macs(model: nn.Module, shape: tuple[int, ...], convention="macs") -> int:
    return counted(model.to("meta"), torch.empty(shape, device="meta"), convention)[0]


def attention(inputs: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(inputs, inputs, inputs)


class Packed(nn.Module):
    """A recurrent layer over two sequences of different lengths."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = kind(4, 5, batch_first=True)

    def forward(self, inputs: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(inputs, [3, 2], batch_first=True)
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]


SMALL = {
    "convolution": (nn.Conv2d(4, 6, 3, 2, 1, groups=2), (2, 4, 9, 8)),
    "same padding": (nn.Conv2d(2, 3, (3, 5), padding="same", dilation=(1, 2)), (1, 2, 7, 8)),
    "even kernel": (nn.Conv1d(2, 3, 4, padding="same"), (1, 2, 7)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (1, 4, 5, 5)),
    "3-D": (nn.Conv3d(2, 3, 2), (1, 2, 4, 5, 6)),
    "linear": (nn.Linear(5, 7), (3, 4, 5)),
    "attention layer": (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    "multi-head": (
        Function(lambda x: nn.MultiheadAttention(6, 3).to(x.device)(x, x, x)),
        (4, 2, 6),
    ),
    "matmul": (Function(lambda x: x @ x.transpose(-1, -2)), (2, 3, 4, 5)),
    "lstm": (nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True), (2, 3, 4)),
    "gru": (nn.GRU(4, 5), (3, 2, 4)),
    "rnn": (nn.RNN(4, 5, 2, nonlinearity="relu"), (3, 2, 4)),
    "complex": (Function(lambda x: (x * 1j + 2).abs()), (2, 3)),
    "packed lstm": (Packed(nn.LSTM), (2, 3, 4)),
    "packed gru": (Packed(nn.GRU), (2, 3, 4)),
    "norms": (nn.Sequential(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.GELU()), (2, 4, 3, 3)),
    "attention": (Function(attention), (2, 3, 7, 5)),
}
BEYOND_TORCHS_COUNTER = ("lstm", "gru", "rnn", "packed lstm", "packed gru", "attention")
EVERYWHERE = pytest.mark.parametrize("name", list(SMALL))


@EVERYWHERE
def test_the_figure_is_one_on_the_cpu_and_on_meta(name: str):
    model, shape = copy.deepcopy(SMALL[name])
    real = counted(model.to("cpu"), torch.zeros(shape))
    blank = counted(model.to("meta"), torch.empty(shape, device="meta"))
    assert real == blank


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EVERYWHERE
def test_the_figure_is_one_on_a_gpu(name: str):
    model, shape = copy.deepcopy(SMALL[name])
    real = counted(model.to("cuda"), torch.zeros(shape, device="cuda"))
    assert real[0] == counted(model.to("meta"), torch.empty(shape, device="meta"))[0]


@EVERYWHERE
def test_shortcuts_change_no_figure(name: str):
    model, shape = copy.deepcopy(SMALL[name])
    inputs = torch.empty(shape, device="meta")
    assert counted(model.to("meta"), inputs) == counted(model, inputs, shortcuts=False)


@pytest.mark.parametrize("name", [n for n in SMALL if n not in BEYOND_TORCHS_COUNTER])
def test_it_agrees_with_torchs_counter_on_what_that_counts(name: str):
    model, shape = copy.deepcopy(SMALL[name])
    inputs = torch.empty(shape, device="meta")
    with FlopCounterMode(display=False) as counter:
        model.to("meta").eval()(inputs)
    assert macs(model, shape) * 2 == counter.get_total_flops()


@pytest.mark.parametrize("grouped", [False, True])
def test_attention_multiplies_queries_by_keys_and_scores_by_values(grouped: bool):
    heads = 2 if grouped else 6
    query, key, value = (
        torch.zeros(2, n, t, e) for n, t, e in ((6, 5, 4), (heads, 7, 4), (heads, 7, 3))
    )
    model = Function(lambda q: F.scaled_dot_product_attention(q, key, value, enable_gqa=grouped))
    assert counted(model, query)[0] == 2 * 6 * 5 * 7 * (4 + 3)


def test_a_fused_kernel_that_is_called_by_name_counts_the_same():
    operation = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    inputs = torch.zeros(2, 3, 7, 8)
    fused = counted(Function(lambda x: operation(x, x, x)[0]), inputs)
    plain = counted(Function(attention), inputs)
    assert (fused[0], fused[2]) == (plain[0], plain[2])


def test_each_weight_of_a_recurrent_layer_meets_each_step_once():
    layer = nn.LSTM(4, 5, 2, bidirectional=True)
    weights = sum(p.numel() for name, p in layer.named_parameters() if "weight" in name)
    assert macs(layer, (11, 3, 4)) == 11 * 3 * weights


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("bhqd,bhkd->bhqk", ((2, 3, 4, 5), (2, 3, 6, 5)), 2 * 3 * 4 * 6 * 5),
        ("nchw,kc->nkhw", ((2, 3, 4, 5), (7, 3)), 2 * 3 * 4 * 5 * 7),
        ("ij,jk->ik", ((2, 3), (3, 4)), 2 * 3 * 4),
    ],
)
def test_an_einsum_multiplies_along_all_of_its_letters(equation, shapes, expected):
    operands = [torch.empty(shape, device="meta") for shape in shapes]
    model = Function(lambda x: torch.einsum(equation, x, *operands[1:]))
    assert macs(model, shapes[0]) == expected


def test_a_bilinear_layer_multiplies_all_pairs():
    model = Function(lambda x: nn.Bilinear(2, 2, 4).to(x.device)(x, x))
    assert macs(model, (3, 2)) == 3 * 2 * 2 * 4


def test_an_operation_that_nobody_knows_is_named_with_how_often():
    model = Function(lambda x: torch.fft.fft(torch.fft.fft(x)).real)
    ledger = count_pass(model, torch.zeros(2, 8))
    assert ledger.uncounted == {"aten::_fft_r2c": 1, "aten::_fft_c2c": 1}


def test_fvcore_s_convention_adds_norms_resampling_and_global_pooling():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),  # 8x8 to 6x6
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4, affine=False),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.LayerNorm(4),
    )
    products = 36 * 3 * 4 * 9
    besides = 36 * 4 * 2 + 36 * 4 * 4 + 144 * 4 * 4 + 144 * 4 + 4 * 5
    assert macs(model, (1, 3, 8, 8)) == products
    assert macs(model, (1, 3, 8, 8), "fvcore") == products + besides


def test_saved_tensors_are_the_bytes_that_autograd_keeps():
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    ledger = count_pass(model.eval(), torch.zeros(3, 5))
    # The input, and the output of ReLU, which ReLU and the second layer share.
    assert ledger.saved == {4: 4 * 3 * (5 + 7)}


def test_a_batch_norm_keeps_the_same_on_every_device():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    real = count_pass(model, torch.zeros(1, 3, 8, 8)).saved
    # The images, and what the convolution returns; by running statistics, no others.
    assert real == {4: 4 * (3 * 64 + 8 * 36)}
    assert count_pass(model.to("meta"), torch.empty(1, 3, 8, 8, device="meta")).saved == real


class Replacing(nn.Module):
    """A block that makes its buffer anew as it is called, as models do that cache positions."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.zeros(7), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        self.positions = torch.zeros(7, device=inputs.device)
        return inputs.sigmoid()


class Refilling(Replacing):
    """The same by the back door."""

    def forward(self, inputs: Tensor) -> Tensor:
        self.positions.data = torch.zeros(7, device=inputs.device)
        return inputs.sigmoid()


@pytest.mark.parametrize("block", [Replacing, Refilling])
def test_a_buffer_that_is_replaced_hides_no_saved_tensor(block: type[nn.Module]):
    # What a block frees, the next one's activations may get the address of.
    model = nn.Sequential(nn.Linear(5, 7), *(block() for _ in range(50))).eval()
    # The input of the layer, and the outputs of the sigmoids.
    assert count_pass(model, torch.zeros(3, 5)).saved == {4: 4 * 3 * (5 + 50 * 7)}


def test_nothing_of_a_counted_pass_stays_in_memory():
    model, inputs = nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval(), torch.zeros(1, 3)
    count_pass(model, inputs)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(20):
        count_pass(model, inputs)
    gc.collect()
    assert len(gc.get_objects()) < before + 20


def added(*shape: int) -> nn.Module:
    return Function(lambda x: x.add_(torch.zeros(shape, device=x.device)))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(100, 10), nn.Linear(64, 5)), (1, 3, 8, 8)),
        (nn.LayerNorm(9), (1, 7)),
        (added(2, 1, 7), (1, 7)),
        (added(3), (1, 7)),
        (nn.Linear(5, 4).half(), (2, 5)),
        (nn.Linear(5, 4, bias=False).half(), (2, 3, 5)),
        (nn.LayerNorm(5).half(), (2, 5)),
        (nn.BatchNorm1d(5).double(), (2, 5)),
        (nn.BatchNorm1d(6), (2, 5)),
        (nn.Conv2d(3, 4, 3).half(), (1, 3, 5, 5)),
        (Function(lambda x: x @ torch.zeros(5, 3, device=x.device).double()), (2, 5)),
        (Function(lambda x: x.softmax(5)), (2, 5)),
        (Function(lambda x: x.mean(5)), (2, 5)),
        (Function(lambda x: x.roll(1, 5)), (2, 5)),
        (Function(lambda x: x.mul_(1j)), (2, 5)),
        (nn.Embedding(5, 4), (2, 5)),
    ],
    ids=repr,
)
def test_what_cannot_run_on_the_cpu_has_no_figure_on_meta_either(model, shape):
    for device in ("cpu", "meta"):
        with pytest.raises((RuntimeError, IndexError)):
            count_pass(model.to(device).eval(), torch.empty(shape, device=device))


def test_a_run_that_asked_for_deterministic_kernels_changes_no_count():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="bilinear"))
    usual = macs(model, (1, 3, 8, 8), "fvcore")
    before = torch.are_deterministic_algorithms_enabled()
    torch._C._set_deterministic_algorithms(not before)
    try:
        assert macs(model, (1, 3, 8, 8), "fvcore") == usual
        assert torch.are_deterministic_algorithms_enabled() != before
    finally:
        torch._C._set_deterministic_algorithms(before)
