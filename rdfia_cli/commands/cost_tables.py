"""How `rdfia param-count` shows what models cost: a tree, a comparison, an explanation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rdfia_cli import console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rdfia_cli.analysis.explain import Explanation
    from rdfia_cli.analysis.parameters import Costs, Layer


def print_model(content: Mapping[str, Any], costs: Costs, depth: int) -> None:
    """Print the tree of a model's modules, each with all that stands below it, and the totals."""
    from rdfia_cli.analysis.parameters import subtrees

    fed = "x".join(map(str, content["input"]))
    console.print_table(
        ("module", "type", "output", "weights", "biases", "MACs", "activations"),
        [_row(layer, "(itself)" if depth else "(model)") for layer in subtrees(costs, depth)],
        title=f"{content['model']} on {fed}, batch {content['batch']}",
    )
    console.print_result("")
    console.print_columns(_totals(content, costs))
    console.print_result("")
    _print_memory(content)


def _row(layer: Layer, head: str) -> tuple[str, ...]:
    """A line of the tree; `head` is what the model's own is called."""
    name = "  " * (layer.depth - 1) + layer.name.rpartition(".")[2] or head
    figures = (layer.weights, layer.biases, layer.macs, layer.activations)
    if layer.shared is not None and not layer.parameters:
        shown = (f"as {layer.shared}", "", *(f"{n:,}" if n else "" for n in figures[2:]))
    else:
        shown = tuple(f"{n:,}" if n else "" for n in figures)
    return (name, layer.type, _shape(layer), *shown)


def _shape(layer: Layer) -> str:
    """The output without its batch axis; of several the first, marked."""
    more = " ..." if len(layer.outputs) > 1 else ""
    return next(("x".join(map(str, shape[1:])) + more for shape in layer.outputs), "")


def _totals(content: Mapping[str, Any], costs: Costs) -> list[tuple[str, str]]:
    total = costs.total
    frozen = total.parameters - total.trainable
    batch = content["batch"]
    each, of_all = (" an example", f" of all {batch:,}") if batch > 1 else ("", "")
    rows = [
        (
            "parameters",
            f"{total.parameters:,} ({total.weights:,} weights, {total.biases:,} biases)",
        ),
        *([("frozen", f"{frozen:,}")] if frozen else []),
        *([("buffers", f"{total.buffers:,}")] if total.buffers else []),
        ("MACs", f"{total.macs:,} ({short(total.macs)}){each}"),
        ("FLOPs", f"{total.flops:,} ({short(total.flops)}){each}"),
        ("activations", f"{total.activations:,}{of_all}"),
    ]
    if "images" in content:
        per_image = f"{content['weights_per_image']:,.1f} weights a train image"
        rows.append(("train images", f"{content['images']:,}: {per_image}"))
    return rows


def _print_memory(content: Mapping[str, Any]) -> None:
    console.print_table(
        ("training in", "weights", "gradients", "activations", "+ SGD", "+ momentum", "+ Adam"),
        [
            (
                precision,
                *(short_bytes(memory[key]) for key in ("weights", "gradients", "activations")),
                *(short_bytes(_training(memory, name)) for name in memory["optimizer"]),
            )
            for precision, memory in content["memory"].items()
        ],
    )


def _training(memory: Mapping[str, Any], optimizer: str) -> int:
    held = sum(memory[key] for key in ("weights", "gradients", "activations"))
    return held + memory["optimizer"][optimizer]


def print_comparison(contents: Sequence[Mapping[str, Any]]) -> None:
    """Print several models, a line each."""
    console.print_table(
        ("model", "input", "parameters", "MACs", "activations", "fp32 with Adam"),
        [
            (
                content["model"],
                "x".join(map(str, content["input"])),
                f"{content['parameters']:,}",
                short(content["macs"]),
                short(content["activations"]),
                short_bytes(_training(content["memory"]["fp32"], "adam")),
            )
            for content in contents
        ],
    )


def print_explanations(found: Sequence[Explanation], content: Mapping[str, Any]) -> None:
    """Print each layer's formula, its shares, and what other layers would cost in its place."""
    for explanation in found:
        layer = explanation.layer
        shape = _shape(layer)
        heading = " ".join([layer.name or "(itself)", layer.type, *([shape] * bool(shape))])
        console.print_result(f"\n{heading}")
        console.print_columns(_explanation_rows(explanation))


def _explanation_rows(explanation: Explanation) -> list[tuple[str, str, str]]:
    layer = explanation.layer
    rows: list[tuple[str, str, str]] = []
    if layer.parameters:
        weights = f"{_equation(explanation.weights, layer.weights)}, and {layer.biases:,} biases"
        shared = f"{layer.biases:,} biases" if not layer.weights else weights
        rows.append(("  parameters", shared, f"{explanation.parameter_share:.1%} of all"))
    if layer.macs:
        macs = _equation(explanation.macs, layer.macs)
        rows.append(("  MACs", macs, f"{explanation.mac_share:.1%} of all"))
    for name, alternative in (
        ("  fully connected", explanation.fully_connected),
        ("  unshared", explanation.unshared),
    ):
        if alternative is not None and alternative != layer.weights:
            times = alternative / max(layer.weights, 1)
            rows.append((name, f"{alternative:,} weights", f"{times:,.0f} times as many"))
    return rows


def _equation(formula: str, number: int) -> str:
    """A formula and what its numbers make; a formula of one number is that number."""
    return f"{number:,}" if formula in ("", str(number)) else f"{formula} = {number:,}"


def short(number: int) -> str:
    """A number in three or four digits: 23.15 M."""
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def short_bytes(count: int) -> str:
    """Bytes in a unit that keeps them short: 23.2 MB, in powers of ten."""
    for unit, size, places in (("GB", 10**9, 2), ("MB", 10**6, 1), ("kB", 10**3, 1)):
        if count >= size:
            return f"{count / size:.{places}f} {unit}"
    return f"{count} B"
