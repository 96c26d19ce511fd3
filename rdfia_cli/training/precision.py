"""The arithmetic and memory layout of a run, chosen from the processor and the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rdfia_cli.errors import UsageError

LEAST_WORK_FOR_BF16 = 300_000
"""Multiply-accumulates an example below which casting costs more than bf16 saves.

Measured by `benchmarks/precision.py`: at batches of 128 a perceptron of 79,400 loses, LeNet-5 of
416,520 gains. The batch size is left out on purpose: a sweep over it must not change the
arithmetic.
"""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Arithmetic:
    """How the forward and backward pass compute; weights and their updates stay in fp32.

    Attributes:
        precision: fp32, or the autocast type bf16 or fp16.
        channels_last: whether images and convolutions lie in memory channel by channel.
    """

    precision: str
    channels_last: bool

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout of image tensors."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(device.type, DTYPES[self.precision], enabled=self.precision != "fp32")


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is the first accelerator, else the CPU.

    Raises:
        UsageError: this machine does not have it.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        supported = accelerator is not None and accelerator.type in ("cuda", "mps")
        name = accelerator.type if accelerator is not None and supported else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device '{name}' is not there: {torch.cuda.device_count()} CUDA devices are",
            "use --device auto or --device cpu",
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not there", "use --device auto or --device cpu")
    return device


def choose_arithmetic(
    precision: str, device: torch.device, macs: int, *, images: bool, by_hand: bool
) -> Arithmetic:
    """Resolve `auto` and refuse what cannot be done.

    Args:
        precision: auto, fp32, bf16 or fp16.
        device: where the model runs.
        macs: multiply-accumulates of one example's forward pass; few gain nothing from bf16.
        images: whether the inputs are images.
        by_hand: whether the model writes its own gradients, which it does in fp32.

    Raises:
        UsageError: the device or the model cannot compute in that precision.
    """
    if precision == "auto":
        pays = not by_hand and macs >= LEAST_WORK_FOR_BF16
        precision = "bf16" if pays and _has_bf16(device) else "fp32"
    if precision != "fp32" and by_hand:
        raise UsageError(
            f"gradients by hand are in fp32, not {precision}", "use --precision fp32 or auto"
        )
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(
            f"fp16 needs a CUDA device, not {device.type}", "use --precision bf16 or auto"
        )
    return Arithmetic(precision, channels_last=images and device.type != "mps")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
