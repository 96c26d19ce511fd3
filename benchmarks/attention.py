"""Our Vision Transformer beside timm's, and attention by each way, interleaved in one run.

The first table justifies EXPLICIT_UP_TO in `rdfia_cli/models/attention.py`: milliseconds of a
forward and backward pass of attention alone, 3 heads of 64, by the number of tokens. The second is
the training of dim 192, depth 6, with the same weights, the same autocast and the same optimizer.
Run: uv run python benchmarks/attention.py [--device cuda]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from rdfia_cli.models.attention import attention_probabilities
from rdfia_cli.models.vit import load_timm_weights, vit
from rdfia_cli.spec import InputSpec
from rdfia_cli.training.memory import keep_freed_memory

TOKENS = (17, 50, 101, 197, 257, 401, 577, 1025)
ROUNDS = 9
MODELS = (
    # tokens, side of the image, patch, batch
    (17, 28, 7, 128),
    (50, 28, 4, 128),
    (197, 224, 16, 32),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    keep_freed_memory()
    ways = [attention(tokens, kind, device) for kind in ("bf16", "fp32") for tokens in TOKENS]
    print(f"{'tokens':>6} {'type':>5} {'explicit ms':>12} {'fused ms':>9} {'fused/explicit':>15}")
    for row in ways:
        print(
            f"{row['tokens']:6} {row['type']:>5} {row['explicit'] * 1e3:12.2f} "
            f"{row['fused'] * 1e3:9.2f} {row['fused'] / row['explicit']:15.2f}"
        )
    models = [training(*case, kind, device) for kind in ("bf16", "fp32") for case in MODELS]
    print(f"{'tokens':>6} {'type':>5} {'vit img/s':>12} {'timm img/s':>11} {'vit/timm':>9}")
    for row in models:
        print(
            f"{row['tokens']:6} {row['type']:>5} {row['vit']:12,.0f} {row['timm']:11,.0f} "
            f"{row['vit'] / row['timm']:9.2f}"
        )
    threads = torch.get_num_threads()
    content = {"schema": "rdfia.benchmark/1", "threads": threads, "device": str(device)}
    print(json.dumps({**content, "attention": ways, "training": models}))


def medians(
    subjects: dict[str, Callable[[], None]], device: torch.device, steps: int
) -> dict[str, float]:
    """Median seconds of a call of each subject; they take turns, the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(ROUNDS + 1):
        for name, subject in subjects.items():
            wait(device)
            began = time.perf_counter()
            for _ in range(steps):
                subject()
            wait(device)
            seconds[name].append((time.perf_counter() - began) / steps)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def attention(tokens: int, kind: str, device: torch.device) -> dict:
    batch = max(1, 6_000 // tokens)
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    packed = torch.randn(3, batch, tokens, 3, 64, device=device, dtype=dtype, requires_grad=True)

    def explicit(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attention_probabilities(queries, keys) @ values

    def subject(way: Callable[..., Tensor]) -> Callable[[], None]:
        def run() -> None:
            queries, keys, values = packed.transpose(2, 3)
            way(queries, keys, values).sum().backward()

        return run

    fused = F.scaled_dot_product_attention
    found = medians({"explicit": subject(explicit), "fused": subject(fused)}, device, 5)
    return {"tokens": tokens, "type": kind, "batch": batch, **found}


def training(
    tokens: int, side: int, patch: int, batch: int, kind: str, device: torch.device
) -> dict:
    theirs = VisionTransformer(
        img_size=side, patch_size=patch, num_classes=10, embed_dim=192, depth=6, num_heads=3
    )
    ours = vit(InputSpec((3, side, side), 10), dim=192, depth=6, heads=3, patch=patch)
    load_timm_weights(ours, theirs.state_dict())
    images = torch.rand(batch, 3, side, side, device=device)
    labels = torch.randint(0, 10, (batch,), device=device)

    def subject(model: nn.Module) -> Callable[[], None]:
        model.to(device).train()
        optimizer = torch.optim.AdamW(model.parameters())

        def step() -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16"):
                logits = model(images)
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    found = medians({"vit": subject(ours), "timm": subject(theirs)}, device, 3)
    rates = {name: batch / seconds for name, seconds in found.items()}
    return {"tokens": tokens, "type": kind, "batch": batch, **rates}


if __name__ == "__main__":
    main()
