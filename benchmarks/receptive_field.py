"""Seconds and peak memory of the receptive field of every layer, a process a model.

    uv run python benchmarks/receptive_field.py [MODEL...] [--json]

Imports are not counted. Memory is the process's peak, torch and timm included.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

MODELS = (
    *("cnn", "torchvision/vgg16", "torchvision/resnet152", "torchvision/inception_v3"),
    *("timm/vit_base_patch16_224", "timm/swin_base_patch4_window7_224", "timm/maxvit_base_tf_224"),
    *("timm/efficientnet_b7", "timm/hrnet_w64", "timm/sequencer2d_l", "timm/volo_d5_224"),
)


def measure(model: str) -> dict[str, object]:
    """Analyse one model in this process."""
    import timm  # noqa: F401
    import torchvision  # noqa: F401

    from rdfia_cli.analysis.layers import analyse
    from rdfia_cli.analysis.subject import build, request

    subject = build(request(model))
    clock, processor = time.perf_counter(), time.process_time()
    analysis = analyse(subject.model, subject.input.shape)
    return {
        "model": model,
        "layers": len(analysis.layers),
        "seconds": round(time.perf_counter() - clock, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "exact": not any(layer.approximations for layer in analysis.layers),
    }


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--one"]:
        print(json.dumps(measure(arguments[1])))
        return
    chosen = [argument for argument in arguments if argument != "--json"] or MODELS
    print(f"{'model':38}{'layers':>8}{'seconds':>9}{'cpu s':>8}{'MB':>7}", file=sys.stderr)
    found = []
    for model in chosen:
        command = [sys.executable, "-W", "ignore", __file__, "--one", model]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        row = json.loads(output.splitlines()[-1])
        found.append(row)
        print(
            f"{model:38}{row['layers']:>8}{row['seconds']:>9}{row['processor_seconds']:>8}"
            f"{row['megabytes']:>7}",
            file=sys.stderr,
        )
    if "--json" in arguments:
        print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
