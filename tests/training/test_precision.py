"""The device and the arithmetic: chosen where it is left open, refused where it cannot be."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rdfia_cli.errors import UsageError
from rdfia_cli.training.precision import Arithmetic, choose_arithmetic, choose_device

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
MUCH_WORK, LITTLE_WORK = 18_000_000, 79_400


def choose(
    precision: str,
    device: torch.device = CPU,
    macs: int = MUCH_WORK,
    images: bool = True,
    by_hand: bool = False,
) -> Arithmetic:
    return choose_arithmetic(precision, device, macs, images=images, by_hand=by_hand)


def give_processor(monkeypatch: pytest.MonkeyPatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)


def give_accelerator(monkeypatch: pytest.MonkeyPatch, name: str | None, cuda_devices: int) -> None:
    found = None if name is None else torch.device(name)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda_devices)


def test_fp16_is_refused_without_cuda_and_the_way_out_is_named():
    with pytest.raises(UsageError, match="fp16 needs a CUDA device, not cpu") as caught:
        choose("fp16")
    assert "--precision bf16" in caught.value.remedy


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_gradients_by_hand_are_refused_in_half_precision(precision: str, device: torch.device):
    with pytest.raises(UsageError, match=f"by hand are in fp32, not {precision}") as caught:
        choose(precision, device, by_hand=True)
    assert "--precision fp32" in caught.value.remedy


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_gradients_by_hand_are_in_fp32(monkeypatch: pytest.MonkeyPatch, precision: str):
    give_processor(monkeypatch, amx_bf16=True)
    assert choose(precision, by_hand=True).precision == "fp32"


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_is_bf16_for_a_model_of_much_work_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, capability: str
):
    give_processor(monkeypatch, **{capability: True})
    assert choose("auto").precision == "bf16"


def test_auto_is_fp32_where_the_processor_has_no_bf16(monkeypatch: pytest.MonkeyPatch):
    give_processor(monkeypatch, avx2=True, amx_bf16=False)
    assert choose("auto").precision == "fp32"


def test_auto_is_fp32_for_a_model_of_little_work(monkeypatch: pytest.MonkeyPatch):
    give_processor(monkeypatch, amx_bf16=True)
    assert choose("auto", macs=LITTLE_WORK).precision == "fp32"


@pytest.mark.parametrize("has", [True, False])
def test_auto_on_cuda_asks_the_device_for_bf16(monkeypatch: pytest.MonkeyPatch, has: bool):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has)
    assert choose("auto", CUDA).precision == ("bf16" if has else "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_asked_for_wins_over_what_would_be_chosen(
    monkeypatch: pytest.MonkeyPatch, precision: str
):
    give_processor(monkeypatch, amx_bf16=True)
    assert choose(precision).precision == precision
    assert choose(precision, macs=LITTLE_WORK, images=False).precision == precision


def test_fp16_is_there_on_cuda():
    assert choose("fp16", CUDA).precision == "fp16"


@pytest.mark.parametrize(
    ("device", "images", "expected"),
    [
        (CPU, True, torch.channels_last),
        (CPU, False, torch.contiguous_format),
        (CUDA, True, torch.channels_last),
        (MPS, True, torch.contiguous_format),
    ],
    ids=str,
)
def test_images_lie_channels_last_where_that_is_fast(
    device: torch.device, images: bool, expected: torch.memory_format
):
    assert choose("fp32", device, images=images).memory_format is expected


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_the_forward_pass_computes_in_the_precision_and_weights_stay_in_fp32(
    precision: str, expected: torch.dtype
):
    layer = nn.Linear(4, 3)
    with Arithmetic(precision, channels_last=False).autocast(CPU):
        assert layer(torch.ones(2, 4)).dtype == expected
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize(("name", "devices"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_an_absent_cuda_device_is_refused_and_the_present_ones_counted(
    monkeypatch: pytest.MonkeyPatch, name: str, devices: int
):
    give_accelerator(monkeypatch, None, devices)
    with pytest.raises(UsageError, match=f"device '{name}' is not there: {devices} ") as caught:
        choose_device(name)
    assert "--device auto" in caught.value.remedy


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_a_present_cuda_device_is_taken_by_its_name(monkeypatch: pytest.MonkeyPatch, name: str):
    give_accelerator(monkeypatch, "cuda", 2)
    assert choose_device(name) == torch.device(name)


def test_absent_mps_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="device 'mps' is not there"):
        choose_device("mps")


@pytest.mark.parametrize(("accelerator", "expected"), [(None, CPU), ("cuda", CUDA), ("xpu", CPU)])
def test_auto_is_the_accelerator_that_is_there_else_the_cpu(
    monkeypatch: pytest.MonkeyPatch, accelerator: str | None, expected: torch.device
):
    give_accelerator(monkeypatch, accelerator, 1)
    assert choose_device("auto") == expected


def test_the_cpu_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    give_accelerator(monkeypatch, "cuda", 1)
    assert choose_device("cpu") == CPU
