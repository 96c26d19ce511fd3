"""`rdfia compare MODEL...`: train several models over several seeds; one table, one picture."""

from __future__ import annotations

import os
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.errors import DivergedError, TrialsFailedError, UsageError, count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rdfia_cli.config import RunConfig

USUAL_DATA = "mnist"
CONTENT = "comparison.json"
PICTURE = "comparison.png"
LEAST_SIDE_OF_LENET = 12


def run(flags: Mapping[str, Any]) -> int:
    """Compare what the flags say, and return the exit code; finished runs are not trained again."""
    seeds = parse_seeds(flags["seeds"])
    flags = {**flags, "data": flags["data"] or USUAL_DATA}
    models = flags["models"] or _usual_models(flags)
    plan = {model: [_config(flags, model, seed) for seed in seeds] for model in models}
    costs = {model: _cost(configs[0], quiet=flags["quiet"]) for model, configs in plan.items()}
    rows = [
        _summarise(model, costs[model], [_train(config, flags) for config in configs])
        for model, configs in plan.items()
    ]
    content = {
        "schema": "rdfia.comparison/1",
        "command": "compare",
        "data": flags["data"],
        "seeds": list(seeds),
        "models": rows,
    }
    _report(content, flags)
    return _refuse_failures(rows, Path(flags["out"]) / CONTENT)


def parse_seeds(text: str) -> Sequence[int]:
    """The seeds that `--seeds` names: `0,1,2` or `0..4`.

    Raises:
        UsageError: it names none.
    """
    if match := re.fullmatch(r"(\d+)\.\.(\d+)", text):
        seeds = list(range(int(match[1]), int(match[2]) + 1))
    else:
        seeds = [int(part) for part in text.split(",")] if re.fullmatch(r"\d+(,\d+)*", text) else []
    if not seeds or len({*seeds}) < len(seeds):
        raise UsageError(f"--seeds {text} names no seeds", "write --seeds 0,1,2 or --seeds 0..4")
    return seeds


def _config(flags: Mapping[str, Any], model: str, seed: int) -> RunConfig:
    """The settings of one run; its folder bears the model as it was written, and the seed."""
    from rdfia_cli.config import resolve
    from rdfia_cli.sources import sources_of

    folder = re.sub(r"[^\w.=-]+", "-", model).strip("-")
    out = Path(flags["out"]) / f"{folder}-{seed}"
    settings = {k: v for k, v in flags.items() if k not in {"models", "seeds"}}
    chosen = {**settings, "model": model, "seed": str(seed), "out": str(out)}
    return resolve(sources_of(chosen, os.environ)).config


def _usual_models(flags: Mapping[str, Any]) -> Sequence[str]:
    """Our Vision Transformer and the usual baselines, with patches that divide the images."""
    from rdfia_cli.commands.progress import display, watch
    from rdfia_cli.experiment import plan_experiment

    config = _config(flags, "cnn", 0)
    with display(quiet=flags["quiet"]) as show:
        _, height, width = watch(plan_experiment(config), show).assembly.input.shape
    patch = patch_for(height, width)
    models = [f"vit:patch={patch}", f"timm/vit_tiny_patch16_224:patch_size={patch}"]
    small = min(height, width) < LEAST_SIDE_OF_LENET
    return [*models, "timm/resnet18", "cnn", *([] if small else ["lenet"])]


def patch_for(height: int, width: int) -> int:
    """The largest patch of at most 16 pixels that cuts each side into four or more."""
    most = max(1, min(height, width, 64) // 4)
    return max(n for n in range(1, most + 1) if height % n == 0 and width % n == 0)


def _cost(config: RunConfig, *, quiet: bool) -> Mapping[str, int]:
    """Parameters and multiply-accumulates; what cannot be built is refused before any run."""
    from rdfia_cli.commands.progress import display, watch
    from rdfia_cli.commands.running import cost_of
    from rdfia_cli.experiment import plan_experiment

    with display(quiet=quiet) as show:
        parts = watch(plan_experiment(config), show).assembly
    cost = cost_of(parts)
    return {"parameters": cost.parameters, "macs": cost.macs}


def _train(config: RunConfig, flags: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result of a run, or what went wrong with it."""
    from rdfia_cli.commands.running import complete

    try:
        return complete(config, quiet=flags["quiet"])
    except DivergedError as error:
        console.warn(f"{config.folder}: {error.fact}")
        return {"run": str(config.folder), "error": error.fact}


def _summarise(
    model: str, cost: Mapping[str, int], results: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """One model's row; the spread is the standard deviation over the seeds."""
    failed = [result for result in results if "error" in result]
    done = [result for result in results if result.get("test") is not None]
    accuracies = [result["test"]["accuracy"] for result in done]
    return {
        "model": model,
        **cost,
        "accuracy": {
            "mean": statistics.mean(accuracies) if done else None,
            "std": statistics.stdev(accuracies) if len(done) > 1 else None,
            "values": accuracies,
        },
        "images_per_second": statistics.median(r["images_per_second"] for r in done)
        if done
        else None,
        "seconds": statistics.mean(r["seconds"] for r in done) if done else None,
        "failed": len(failed),
        "unfinished": len(results) - len(done) - len(failed),
        "runs": [result["run"] for result in results],
    }


def _report(content: Mapping[str, Any], flags: Mapping[str, Any]) -> None:
    """Store, draw and print the comparison."""
    from rdfia_cli import durable
    from rdfia_cli.report.comparison import draw_comparison, table

    folder = Path(flags["out"])
    durable.write_json(folder / CONTENT, content)
    draw_comparison(content, folder / PICTURE)
    if flags["json"]:
        console.print_json(content)
    else:
        heading, *rows = table(content)
        console.print_table(heading, rows, title=f"{content['data']}, test split")
        console.say(f"drawn: {folder / PICTURE}")


def _refuse_failures(rows: Sequence[Mapping[str, Any]], stored: Path) -> int:
    """Say that runs diverged, in words alone since stdout has the comparison; the exit code."""
    failed = sum(row["failed"] for row in rows)
    if not failed:
        return 0
    runs = sum(len(row["runs"]) for row in rows)
    return console.conclude_with(
        TrialsFailedError(
            f"{failed} of {count(runs, 'run')} diverged", f"see which in '{stored}'; lower --lr"
        )
    )
