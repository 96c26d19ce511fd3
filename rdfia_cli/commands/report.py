"""`rdfia report RUN...`: one page of HTML about a run, several runs, or a sweep."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import console
from rdfia_cli.errors import RdfiaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rdfia_cli.insight import Insight
    from rdfia_cli.report.model_sections import Findings
    from rdfia_cli.report.page import Page, Section
    from rdfia_cli.report.run_record import RunRecord

MISTAKES, MISTAKES_OF_SEVERAL = 24, 8
ATTENDED, ATTENDED_OF_SEVERAL = 6, 2
"""Examples that a page of one run, and of several runs, shows of each."""
MOST_LOOKED_INTO = 6
"""Runs of a comparison up to which the models are looked into."""


def run(flags: Mapping[str, Any]) -> None:
    """Write the page that the flags ask for."""
    from rdfia_cli.report.page import LARGEST, write_page

    folders = [Path(text) for text in flags["runs"]]
    kind = _kind(folders)
    path = _page_path(flags["out"], folders)
    with _writing(path, folders, kind):
        page, notes = _compose(kind, folders, flags)
        size = write_page(page, path)
    if size > LARGEST:
        remedy = "; name fewer runs" if len(folders) > 1 else ""
        notes.append(f"'{path}' has {size / 1e6:.1f} MB, slow to show{remedy}")
    for note in notes:
        console.warn(note)
    content = {
        "schema": "rdfia.report/1",
        "command": "report",
        "kind": kind,
        "runs": [str(folder) for folder in folders],
        "page": str(path),
        "bytes": size,
        "sections": [section.anchor for section in page.sections],
        "notes": notes,
    }
    if flags["json"]:
        console.print_json(content)
    else:
        console.print_result(str(path))


def _writing(
    path: Path, folders: Sequence[Path], kind: str
) -> contextlib.AbstractContextManager[None]:
    """Hold the right to write where the page goes, if that is the folder of the run."""
    from rdfia_cli.run import CONFIG, claim

    folder = folders[0]
    is_inside = path.parent.resolve() == folder.resolve()
    if kind == "run" and is_inside and (folder / CONFIG).is_file():
        return claim(folder)
    return contextlib.nullcontext()


def _kind(folders: Sequence[Path]) -> str:
    """What is reported on: `run`, `comparison` or `sweep`.

    Raises:
        UsageError: a sweep among others or one that has not ended, or a folder twice.
    """
    from rdfia_cli.report.sweep_record import SWEEP
    from rdfia_cli.sweep.mistaken import refuse_unfinished_sweep

    for folder in folders:
        refuse_unfinished_sweep(folder)
    sweeps = [folder for folder in folders if (folder / SWEEP).is_file()]
    if sweeps and len(folders) > 1:
        raise UsageError(f"'{sweeps[0]}' is a sweep, among others", "report on it alone")
    places = [folder.resolve() for folder in folders]
    double = next(
        (f for f, place in zip(folders, places, strict=True) if places.count(place) > 1), 0
    )
    if double:
        raise UsageError(f"'{double}' is given twice", "name each run once")
    return "sweep" if sweeps else "run" if len(folders) == 1 else "comparison"


def _page_path(text: str | None, folders: Sequence[Path]) -> Path:
    """Where the page goes.

    Raises:
        UsageError: it is no .html file in a folder that one may write to.
    """
    usual = folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
    path = Path(text) if text is not None else usual
    missing = text is None and not path.parent.is_dir()  # told as a missing run, which it is
    if path.suffix not in (".html", ".htm") or not (missing or path.parent.is_dir()):
        raise UsageError(f"cannot write '{path}'", "give an .html file in a folder that exists")
    if not missing and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise UsageError(f"cannot write '{path}'", "give an .html file in a folder of your own")
    return path


def _compose(
    kind: str, folders: Sequence[Path], flags: Mapping[str, Any]
) -> tuple[Page, list[str]]:
    """The page, and what is missing in it."""
    if kind != "sweep":
        return _compose_runs(folders, flags)
    from rdfia_cli.report.sweep_record import read_sweep
    from rdfia_cli.report.sweep_sections import sweep_page

    return sweep_page(read_sweep(folders[0]), flags["title"]), []


def _compose_runs(folders: Sequence[Path], flags: Mapping[str, Any]) -> tuple[Page, list[str]]:
    from rdfia_cli.config import resolve_device
    from rdfia_cli.report.run_record import read_run

    device = flags["device"] and resolve_device(flags["device"], "--device")
    records = [read_run(folder) for folder in folders]
    several = len(records) > 1
    notes: list[str] = []
    inside: list[list[Section]] = [[] for _ in records]
    if len(records) > MOST_LOOKED_INTO:
        notes.append(f"no model is looked into: that is for at most {MOST_LOOKED_INTO} runs")
    else:
        inside = [
            _look_inside(record, device, notes, several=several, quiet=flags["quiet"])
            for record in records
        ]
    if several:
        return _comparison(records, inside, notes, flags["title"]), notes
    from rdfia_cli.report.run_sections import origin_sections, result_sections, run_page

    (record,), (seen,) = records, inside
    sections = [*result_sections(record), *seen, *origin_sections(record)]
    return run_page(record, sections, notes, flags["title"]), notes


def _comparison(
    records: Sequence[RunRecord],
    inside: Sequence[Sequence[Section]],
    notes: Sequence[str],
    title: str | None,
) -> Page:
    from rdfia_cli.report.comparison_sections import (
        comparison_page,
        comparison_sections,
        single_runs,
    )

    each = single_runs(records, inside)
    sections = [*comparison_sections(records), *([each] if each else [])]
    return comparison_page(records, sections, title or f"{len(records)} runs", notes)


def _look_inside(
    record: RunRecord, device: str | None, notes: list[str], *, several: bool, quiet: bool
) -> list[Section]:
    """The sections that need the model; what cannot be had is noted in the page and on stderr."""
    from rdfia_cli.report.model_sections import layers, model_sections

    if not record.epochs:
        return []
    config = record.config.model_copy(update={"device": device}) if device else record.config
    costs, fields = _costs(record, notes)
    try:
        seen = _insight(record.folder, config, several=several, quiet=quiet)
    except RdfiaError as error:
        notes.append(f"'{record.folder}': its weights are not looked into: {error.fact}")
        return [layers(costs, fields)] if costs else []
    # That it is not finished is told of the run, from the lines that its curves have.
    from rdfia_cli.evaluation import unfinished

    said = None if record.fitted else unfinished(seen.evaluation.epoch)
    told = [text for text in seen.evaluation.warnings if text != said]
    notes += [f"'{record.folder}': {text}" for text in told]
    return model_sections(_findings(record.folder, seen, costs, fields))


def _insight(folder: Path, config: Any, *, several: bool, quiet: bool) -> Insight:
    from rdfia_cli.commands.progress import display, watch

    with display(quiet=quiet) as show:
        from rdfia_cli.insight import look_inside

        work = look_inside(
            folder,
            config,
            split="test",
            mistakes=MISTAKES_OF_SEVERAL if several else MISTAKES,
            attended=ATTENDED_OF_SEVERAL if several else ATTENDED,
        )
        return watch(work, show)


def _costs(
    record: RunRecord, notes: list[str]
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """What the model's layers cost and see: `rdfia.parameters/1` and `rdfia.receptive-field/1`."""
    from rdfia_cli.analysis.layers import analyse
    from rdfia_cli.analysis.objects import describe_costs, describe_fields
    from rdfia_cli.analysis.parameters import measure
    from rdfia_cli.analysis.subject import build, request

    try:
        subject = build(request(str(record.folder.resolve())))
        with subject.naming():
            costs = measure(subject.model, subject.input, realise=subject.realise)
        parameters = describe_costs(subject, costs)
        if len(subject.input.shape) != 3:
            return parameters, None
        analysis = analyse(subject.model, subject.input.shape)
        return parameters, describe_fields(subject, analysis, analysis.layers)
    except RdfiaError as error:
        notes.append(f"'{record.folder}': its layers are not counted: {error.fact}")
        return None, None


def _findings(
    folder: Path,
    seen: Insight,
    parameters: Mapping[str, Any] | None,
    fields: Mapping[str, Any] | None,
) -> Findings:
    """What was seen, as plain numbers and arrays."""
    from rdfia_cli.commands.eval import attention_picture
    from rdfia_cli.evaluation import describe_evaluation
    from rdfia_cli.report.model_sections import Bin, Findings, Wrong

    result = describe_evaluation(folder, seen.evaluation)
    names = seen.evaluation.classes
    wrong = seen.mistakes
    return Findings(
        result=result,
        bins=[Bin(**asdict(one)) for one in seen.reliability],
        wrong=None
        if wrong is None
        else [
            Wrong(image, example, names[truth], names[guess], confidence)
            for image, example, truth, guess, confidence in zip(
                wrong.images.numpy(),
                wrong.examples.tolist(),
                wrong.labels.tolist(),
                wrong.predictions.tolist(),
                wrong.confidences.tolist(),
                strict=True,
            )
        ],
        mistakes=wrong.total if wrong is not None else 0,
        filters=None if seen.filters is None else seen.filters.weights.numpy(),
        filter_name=seen.filters.name if seen.filters else "",
        attention=None
        if seen.attention is None
        else attention_picture(seen.attention, names, result),
        parameters=parameters,
        fields=fields,
    )
