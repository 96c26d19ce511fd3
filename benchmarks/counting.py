"""What counting tools say of the same models, and how long they take.

    uv run --with torchinfo --with fvcore python benchmarks/counting.py [MODEL...]

Published: timm's results table (vit, convmixer), Tatsunami and Taki 2022 (sequencer), and the
metadata of torchvision's weights. Each tool counts on the CPU, as it is used; `rdfia` on meta.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import torch
from torch.utils.flop_counter import FlopCounterMode

from rdfia_cli.analysis.parameters import measure
from rdfia_cli.analysis.subject import build, request

PUBLISHED = {
    "timm/vit_tiny_patch16_224": 1.254,
    "timm/sequencer2d_s": 8.33,
    "timm/convmixer_1024_20_ks9_p14": 5.95,
    "torchvision/resnet50": 4.089,
    "torchvision/swin_t": 4.491,
}


def by_rdfia(name: str, real: torch.nn.Module, shape: tuple[int, ...]) -> float:
    subject = build(request(name))
    return measure(subject.model, subject.input).total.macs


def by_torch(name: str, real: torch.nn.Module, shape: tuple[int, ...]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        real(torch.zeros(1, *shape))
    return counter.get_total_flops() / 2


def by_torchinfo(name: str, real: torch.nn.Module, shape: tuple[int, ...]) -> float:
    from torchinfo import summary

    return summary(real, input_size=(1, *shape), verbose=0).total_mult_adds


def by_fvcore(name: str, real: torch.nn.Module, shape: tuple[int, ...]) -> float:
    from fvcore.nn import FlopCountAnalysis

    counted = FlopCountAnalysis(real, torch.zeros(1, *shape))
    return counted.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total()


TOOLS = {"rdfia": by_rdfia, "torch": by_torch, "torchinfo": by_torchinfo, "fvcore": by_fvcore}


def on_cpu(name: str) -> torch.nn.Module:
    import timm
    from torchvision import models

    family, _, variant = name.partition("/")
    made = timm.create_model(variant) if family == "timm" else models.get_model(variant)
    return made.eval()


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    for name in sys.argv[1:] or PUBLISHED:
        real, shape = on_cpu(name), build(request(name)).input.shape
        row = {"model": name, "published": PUBLISHED.get(name)}
        for tool, count in TOOLS.items():
            began = time.perf_counter()
            try:
                row[tool] = round(count(name, real, shape) / 1e9, 4)
            except ImportError:
                row[tool] = None
            row[f"{tool}_seconds"] = round(time.perf_counter() - began, 2)
        rows.append(row)
    columns = ("model", "published", *TOOLS)
    print("  ".join(f"{column:>32}" if column == "model" else f"{column:>9}" for column in columns))
    for row in rows:
        print("  ".join(f"{row[c]!s:>32}" if c == "model" else f"{row[c]!s:>9}" for c in columns))
    print(json.dumps({"unit": "GMACs", "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
