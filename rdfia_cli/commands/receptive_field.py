"""`rdfia receptive-field MODEL...`: what each module sees of the input, and whether that is so."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.errors import RdfiaError, UsageError, count, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rdfia_cli.analysis.layers import Layer
    from rdfia_cli.analysis.subject import Request, Subject
    from rdfia_cli.analysis.verification import Verdict


def run(flags: Mapping[str, Any]) -> int:
    """Print the fields of the models that the flags name, in their order; return the exit code."""
    from rdfia_cli.analysis.subject import expand, parse_shape, request
    from rdfia_cli.report.figure import picture_path

    shape = parse_shape(flags["input"]) if flags["input"] else None
    position = _parse_position(flags["position"])
    plot = flags["plot"] and picture_path(flags["plot"])
    asked = [request(model, shape, flags["classes"]) for model in expand(flags["models"])]
    if plot and len(asked) > 1:
        raise UsageError(f"--plot draws one model, not {len(asked)}", "give one MODEL")
    from rdfia_cli.commands.each_model import try_each

    def report(request: Request) -> RdfiaError | None:
        return _report(request, position, flags)

    refuted, failures = try_each(
        asked, report, flags, doing="analysing", on_stdout=True, show=lambda each: each
    )
    errors = [error for error in (*failures, *refuted) if error is not None]
    return min((error.exit_code for error in errors), default=0)


def _report(
    asked: Request, position: tuple[int, int] | None, flags: Mapping[str, Any]
) -> RdfiaError | None:
    """Print what one model sees.

    Returns:
        What the verification refuted, already said.
    """
    from rdfia_cli.analysis.layers import analyse
    from rdfia_cli.analysis.objects import describe_fields
    from rdfia_cli.analysis.subject import build

    subject = build(asked)
    if subject.is_scripted():
        console.say(f"{asked.label}: modules within a scripted one are not told apart from it")
    with subject.naming():
        analysis = analyse(
            subject.model, subject.input.shape, clip=flags["clip"], realise=subject.realise
        )
    layers = choose_layers(analysis.layers, flags["layer"] or ())
    _refuse_position(position, layers)
    content = describe_fields(subject, analysis, layers, position)
    verdicts = _verify(asked, subject, quiet=flags["quiet"]) if flags["verify"] else ()
    if flags["verify"]:
        content["verified"] = _describe_verdicts(verdicts)
    if flags["effective"] or flags["plot"]:
        from rdfia_cli.commands.effective_field import Chosen, add_pictures

        add_pictures(asked, subject, Chosen(analysis.layers, layers), content, flags)
    if flags["json"]:
        console.print_json(content)
    else:
        _print(content)
    return _say_refuted(asked, verdicts)


def _parse_position(text: str | None) -> tuple[int, int] | None:
    """The output position that `--position y,x` names.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(
            f"--position {text} is no position", "write --position y,x, such as 3,4, from 0,0 on"
        )
    return int(parts[0]), int(parts[1])


def choose_layers(layers: Sequence[Layer], patterns: Sequence[str]) -> list[Layer]:
    """The layers whose name one of the patterns matches; all where there is none.

    Raises:
        UsageError: a pattern matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            raise UsageError(
                f"no layer matches '{pattern}'",
                nearest(pattern, {x.name for x in layers if x.name}),
            )
    return [x for x in layers if not patterns or any(fnmatchcase(x.name, p) for p in patterns)]


def _refuse_position(position: tuple[int, int] | None, layers: Sequence[Layer]) -> None:
    """Refuse a position that no chosen layer has.

    Raises:
        UsageError: there is none.
    """
    from rdfia_cli.analysis.objects import has_position

    if position is None or any(has_position(layer, position) for layer in layers):
        return
    sizes = [layer.positions for layer in layers if layer.positions]
    if not sizes:
        raise UsageError("--position needs rows and columns, and these layers have none")
    height, width = max(sizes)
    raise UsageError(
        f"--position {position[0]},{position[1]} lies outside every layer",
        f"the largest has positions 0,0 to {height - 1},{width - 1}",
    )


def _verify(asked: Request, subject: Subject, *, quiet: bool) -> tuple[Verdict, ...]:
    from rdfia_cli.analysis.realised import realise
    from rdfia_cli.analysis.verification import verify

    if not quiet:
        console.say(f"verifying {subject.label}: NaN in one row and one column at a time")
    return verify(subject.model, realise(asked, subject.input), subject.input.shape)


def _describe_verdicts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {
        "outputs": len(verdicts),
        "bounds": sum(verdict.bounds for verdict in verdicts),
        "equal": sum(v.bounds - v.larger - v.smaller for v in verdicts),
        "larger": sorted({v.name for v in verdicts if v.larger}),
        "smaller": sorted({v.name for v in verdicts if v.smaller}),
    }


def _say_refuted(asked: Request, verdicts: Sequence[Verdict]) -> RdfiaError | None:
    """Say where the experiment reached further than the analysis promises; stdout has the rest."""
    wrong = [verdict.name for verdict in verdicts if verdict.smaller]
    if not wrong:
        return None
    error = RdfiaError(
        f"{asked.label}: NaN reached further than the analysis says in "
        f"{count(len(wrong), 'module')}, first in '{wrong[0]}'",
        "this is an error of rdfia: please report it with the model",
    )
    console.report(error, as_json=False)
    return error


def _print(content: Mapping[str, Any]) -> None:
    shape = "x".join(map(str, content["input"]))
    has_position = any("rows" in layer for layer in content["layers"])
    heading = ("layer", "type", "output", "size", "stride", "padding", "share", "note")
    console.print_table(
        (*heading, *(("rows", "columns") if has_position else ())),
        [_row(layer) for layer in content["layers"]],
        title=f"{content['model']} on {shape}",
    )
    if content["fixed_size"]:
        console.say("the model as a whole takes no other size: what its end sees is clipped to it")
    if "verified" in content:
        _print_verdict(content["verified"])


def _print_verdict(verified: Mapping[str, Any]) -> None:
    share = verified["equal"] / max(verified["bounds"], 1)
    console.print_result(
        f"verified: {verified['equal']:,} of {verified['bounds']:,} bounds equal NaN's "
        f"({share:.2%}) in {verified['outputs']} outputs; larger in {len(verified['larger'])}, "
        f"smaller in {len(verified['smaller'])}"
    )


def _row(layer: Mapping[str, Any]) -> tuple[str, ...]:
    call = f" ({layer['call'] + 1})" if layer["call"] else ""
    cells = (
        (layer["name"] or "(model)") + call,
        layer["type"],
        "x".join(map(str, layer["output"])),
        *(_pair(layer[key]) for key in ("size", "stride", "padding")),
        f"{layer['share']:.1%}",
        _note(layer),
    )
    if "rows" not in layer:
        return cells
    return (*cells, *(_ends(layer[key]) for key in ("rows", "columns")))


def _pair(numbers: Sequence[float]) -> str:
    first, second = (f"{number:.4g}" for number in numbers)
    return first if first == second else f"{first}x{second}"


def _ends(seen: Sequence[int] | None) -> str:
    return f"{seen[0]}..{seen[1]}" if seen else ""


def _note(layer: Mapping[str, Any]) -> str:
    notes: list[str] = []
    if layer["global"]:
        notes.append("global")
    elif layer["varies"]:
        smallest, largest = (_pair(layer["range"][key]) for key in ("smallest", "largest"))
        notes.append(f"varies {smallest}..{largest}" if smallest != largest else "varies")
    if layer["cut"]:
        notes.append("cut by the border")
    if not layer["exact"]:
        notes.append(f"at most: {', '.join(layer['approximations'])}")
    return ", ".join(notes)
