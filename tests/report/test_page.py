"""A page is one file that loads nothing, and shows every name as text."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from rdfia_cli.errors import DivergedError
from rdfia_cli.report.chart import Group, Series
from rdfia_cli.report.comparison_sections import (
    comparison_page,
    comparison_sections,
    differing,
)
from rdfia_cli.report.model_sections import confusion, model_sections
from rdfia_cli.report.page import LARGEST, Page, charts, render
from rdfia_cli.report.run_record import read_run
from rdfia_cli.report.run_sections import (
    again,
    curves,
    file_sections,
    interval,
    key_figures,
    measure_chart,
    run_page,
    write_run_page,
)
from rdfia_cli.report.sweep_record import read_sweep
from rdfia_cli.report.sweep_sections import sweep_page

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 1">',
    "' onmouseover='window.broken = 1",
    "{{ 7 * 7 }} {% raw %}",
    "javascript:alert(1)",
    "url(https://example.org/x.png)",
    "</style><style>*{display:none}",
    "&lt;b&gt; &amp; \\u003c",
]
ADDRESSES = {"src", "href", "action", "data", "poster", "srcset", "xlink:href", "formaction"}


class Reader(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        else:
            self.texts.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, found in self.elements if (value := found.get(name)) is not None]


def test_a_curve_of_one_epoch_is_drawn_as_dots(example_run: Callable, example_sweep: Callable):
    record = read_run(example_run(epochs=1))
    run, sweep = (
        render(page)
        for page in (
            run_page(record, file_sections(record)),
            sweep_page(read_sweep(example_sweep(trials=8, epochs=1))),
        )
    )
    for page in (run, sweep):
        drawn = re.findall(r'<g class="(\w+)[^>]*>(<path d="M[\d.]+ [\d.]+h0")', page)
        assert drawn
        assert {mark for mark, _ in drawn} == {"dots"}, "a line of no length is invisible"


@pytest.fixture(params=["run", "comparison", "sweep", "hostile"])
def page(request, example_run: Callable, example_sweep: Callable, findings: Callable) -> Page:
    """A page of each kind."""
    if request.param == "sweep":
        return sweep_page(read_sweep(example_sweep(trials=8)))
    if request.param == "comparison":
        folders = [example_run(f"run-{i}", seed=str(i), best=0.8 + 0.01 * i) for i in range(3)]
        records = [read_run(folder) for folder in folders]
        return comparison_page(records, comparison_sections(records), "three")
    names = HOSTILE if request.param == "hostile" else ["cat", "dog", "bird"]
    folder = example_run(
        '"><img src=x onerror=alert(1)>' if request.param == "hostile" else "plain"
    )
    record = read_run(folder)
    sections = [*file_sections(record), *model_sections(findings(names))]
    return run_page(record, sections, notes=names)


def test_a_page_loads_nothing(page: Page):
    text = render(page)
    read = Reader(text)
    addresses = [value for name in ADDRESSES for value in read.values(name)]
    assert addresses
    assert all(value.startswith(("data:", "#")) for value in addresses)
    styles = [*read.values("style"), *re.findall(r"<style>(.*?)</style>", text, re.DOTALL)]
    assert not any("url(" in style.replace("url(data:", "") for style in styles)
    assert not any("@import" in style for style in styles)


def test_a_page_of_many_long_runs_is_quick_to_show(example_run: Callable):
    folders = [example_run(f"run-{i}", seed=str(i), epochs=300) for i in range(64)]
    records = [read_run(folder) for folder in folders]
    page = comparison_page(records, comparison_sections(records), "many")
    assert len(render(page).encode()) < LARGEST


def test_every_section_is_there_once_and_is_linked_to(page: Page):
    read = Reader(render(page))
    ids = read.values("id")
    assert len({*ids}) == len(ids)
    anchors = [section.anchor for section in page.sections]
    assert [value for tag, a in read.elements if tag == "section" and (value := a["id"])] == anchors
    assert {value.removeprefix("#") for value in read.values("href")} >= {*anchors}
    assert all(section.title in read.texts for section in page.sections)


def test_only_the_pages_own_script_may_run(page: Page):
    read = Reader(render(page))
    (own,) = [text for kind, text in read.scripts if kind is None]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    (policy,) = [a["content"] for tag, a in read.elements if tag == "meta" and "http-equiv" in a]
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not any(name.startswith("on") for _, found in read.elements for name in found)


def test_what_the_script_reads_is_json_with_a_place_for_each_value(page: Page):
    read = Reader(render(page))
    found = [json.loads(text) for kind, text in read.scripts if kind == "application/json"]
    assert found
    for chart in found:
        for series in chart["series"]:
            assert len(series["places"]) == len(series["x"]) == len(series["y"])


def test_pictures_are_described_or_marked_as_none(page: Page):
    read = Reader(render(page))
    assert all("alt" in found for tag, found in read.elements if tag == "img")
    assert all("aria-label" in a for tag, a in read.elements if a.get("role") in ("img", "group"))


def test_a_hostile_name_is_text_wherever_it_stands(example_run: Callable, findings: Callable):
    record = read_run(example_run())
    sections = [*file_sections(record), *model_sections(findings(HOSTILE))]
    plain = [*file_sections(record), *model_sections(findings([f"class {i}" for i in range(9)]))]
    read = Reader(render(run_page(record, sections, notes=HOSTILE, title=HOSTILE[0])))
    usual = Reader(render(run_page(record, plain, notes=["a"] * 9, title="b")))
    assert [tag for tag, _ in read.elements] == [tag for tag, _ in usual.elements]
    assert [{*a} for _, a in read.elements] == [{*a} for _, a in usual.elements]
    text = "\n".join(read.texts)
    assert all(text.count(name) >= 3 for name in HOSTILE)


def test_the_page_of_a_run_tells_its_numbers(example_run: Callable):
    record = read_run(example_run(epochs=4, best=0.9))
    texts = "\n".join(Reader(render(run_page(record, file_sections(record)))).texts)
    for shown in ("89.00%", "90.00%", "93.00%", "+4.00", "7,510", "6.0 s", "a processor"):
        assert shown in texts


def test_an_unfinished_run_says_so(example_run: Callable):
    folder = example_run(epochs=4)
    (folder / "result.json").unlink()
    record = read_run(folder)
    (note,) = run_page(record, file_sections(record)).notes
    assert note == "The run is not finished: 4 of 4 epochs done."
    fitted = read_run(folder, fitted=True)
    assert not run_page(fitted, file_sections(fitted)).notes


def test_a_run_whose_first_epoch_is_not_done_has_a_page(example_run: Callable):
    folder = example_run()
    for name in ("metrics.jsonl", "timings.jsonl", "result.json", "environment.json"):
        (folder / name).unlink()
    record = read_run(folder)
    assert "0 of 5 epochs" in render(run_page(record, file_sections(record)))


def test_with_early_stopping_the_kept_epoch_is_the_best_one(example_run: Callable):
    folder = example_run(early_stopping="2")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[2]["validation"]["accuracy"] = 0.99
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").unlink()
    kept = read_run(folder, fitted=True).kept
    assert kept is not None
    assert kept["epoch"] == 3


@pytest.mark.parametrize(
    ("settings", "engine", "said"),
    [
        ({}, None, "ends with the same bytes of weights"),
        ({"deterministic": "false"}, None, "may end with other weights"),
        ({}, "stacked", "ends with other last digits"),
    ],
)
def test_the_same_bytes_are_promised_only_where_they_come(
    example_run: Callable, settings: dict[str, str], engine: str | None, said: str
):
    folder = example_run(**settings)
    result = json.loads((folder / "result.json").read_bytes())
    (folder / "result.json").write_text(json.dumps({**result, "engine": engine}))
    assert said in str(again(read_run(folder)).lead)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "while the weights move;"),
        ({"label_smoothing": "0.1"}, "while the weights move, with label smoothing;"),
        ({"augment": "mixup"}, "while the weights move, with augmentation;"),
    ],
)
def test_what_the_curve_of_train_is_of_follows_from_the_settings(
    example_run: Callable, settings: dict[str, str], said: str
):
    assert said in str(curves(read_run(example_run(**settings))).lead)


def test_a_name_that_is_not_utf_8_does_not_keep_a_page_from_being_written(example_run: Callable):
    folder: Path = example_run().rename(os.fsdecode(b"r\xff"))
    write_run_page(folder)
    assert "r\\udcff" in (folder / "report.html").read_text()


@pytest.mark.parametrize(("right", "examples"), [(9915, 10_000), (15, 30), (10, 10), (0, 3)])
def test_an_interval_is_wilsons(right: int, examples: int):
    theirs = binomtest(right, examples).proportion_ci(0.95, method="wilson")
    assert interval(right / examples, examples) == pytest.approx((theirs.low, theirs.high))


def test_a_score_is_told_with_how_many_examples_it_is_of(example_run: Callable):
    folder: Path = example_run(epochs=4, best=0.9)
    told = json.loads((folder / "environment.json").read_bytes())
    (folder / "environment.json").write_text(json.dumps({**told, "examples": {"test": 1000}}))
    about = {figure.name: figure.about for figure in key_figures(read_run(folder))}
    assert about["Test accuracy"].endswith("; 95 % interval 86.9% to 90.8%, of 1,000")
    assert "interval" not in about["Train accuracy"]
    assert "interval" not in about["Validation accuracy"]


def test_a_run_that_failed_or_whose_log_is_damaged_says_so(example_run: Callable):
    folder: Path = example_run(epochs=4)
    result = json.loads((folder / "result.json").read_bytes())
    (folder / "result.json").write_text(json.dumps({**result, "epochs": 9}))
    (note,) = run_page(read_run(folder), []).notes
    assert note == "The log is damaged: it tells 4 of 9 epochs."
    (folder / "result.json").unlink()
    failure = DivergedError("the loss became nan in epoch 5, step 3", "lower --lr").describe()
    (folder / "failure.json").write_text(json.dumps(failure))
    (note,) = run_page(read_run(folder), []).notes
    assert note == "The run failed after 4 of 4 epochs: the loss became nan in epoch 5, step 3."


def test_the_page_in_a_run_folder_is_the_same_each_time(example_run: Callable):
    folder: Path = example_run()
    write_run_page(folder)
    first = (folder / "report.html").read_bytes()
    write_run_page(folder)
    assert (folder / "report.html").read_bytes() == first


def test_one_epoch_is_told_in_the_singular(example_run: Callable):
    folder = example_run(epochs=1)
    assert "· 1 epoch ·" in run_page(read_run(folder), []).subtitle
    (folder / "result.json").unlink()
    (note,) = run_page(read_run(folder), []).notes
    assert note == "The run is not finished: 1 of 1 epoch done."


def loss_page(*curves: list[float]) -> str:
    series = [Series(str(i), range(1, len(y) + 1), y) for i, y in enumerate(curves)]
    return str(charts(Group([measure_chart("Loss", "loss", series)])))


def test_curves_of_loss_are_shown_from_where_they_begin():
    page = loss_page([2.3, 0.3, *[0.05] * 20], [1.9, 0.2, *[0.04] * 20])
    heights = [float(y) for y in re.findall(r"M[\d.]+ (-?[\d.]+)L", page)]
    assert heights
    assert min(heights) >= 0, "a curve begins above the chart"
    assert "cut off" not in page


def test_a_chart_says_where_it_cuts_a_loss_off():
    page = loss_page([1e6, 0.5, 0.5, 0.5, 0.5])
    assert "cross-entropy, nats; cut off above 4" in page
    assert 'class="chart cut"' in page


def test_a_comparison_names_its_models_and_their_data(example_run: Callable):
    records = [read_run(example_run(name, model=name)) for name in ("mlp", "cnn")]
    assert comparison_page(records, [], "two").subtitle == "mlp and cnn on digits"


def test_a_comparison_ranks_by_validation_and_only_what_is_finished(example_run: Callable):
    good, better = (example_run(f"run{best}", best=best) for best in (0.8, 0.9))
    lines = [json.loads(line) for line in (good / "metrics.jsonl").read_text().splitlines()]
    lines[-1]["test"]["accuracy"] = 0.99
    (good / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = comparison_page([read_run(good), read_run(better)], [], "two")
    told = {figure.name: (figure.value, figure.about) for figure in page.figures}
    assert told["Best on validation"] == ("90.00%", "run0.9")
    assert told["Its test accuracy"][0] == "89.00%", "though the other one has 99 %"
    (better / "result.json").unlink()
    page = comparison_page([read_run(good), read_run(better)], [], "two")
    assert {figure.name: figure.about for figure in page.figures}["Best on validation"] == "run0.8"


def test_of_many_classes_the_mistakes_are_open_and_what_absorbs_them_is_told(findings: Callable):
    few, many = (findings([f"class {i}" for i in range(n)]) for n in (9, 30))
    texts = {n: str(confusion(f.result).body) for n, f in ((9, few), (30, many))}
    assert "<details open" in texts[30]
    assert "<details open" not in texts[9]
    counts = np.array(many.result["confusion"])
    taken = counts.sum(0) - counts.diagonal()
    for row, number in enumerate(taken):
        found = re.search(rf">class {row}</t[dh]>.*?</tr>", texts[30].split("Each class")[-1], re.S)
        assert found is not None
        assert f">{number:,}<" in found[0]


def test_settings_of_different_components_are_told_as_one_writes_them(example_run: Callable):
    specs = ("mlp", "mlp:hidden=4", "cnn:dropout=0.5")
    records = [read_run(example_run(f"run{i}", model=spec)) for i, spec in enumerate(specs)]
    assert differing(records) == {"model": list(specs)}
    assert differing(records[:2]) == {"model.hidden": ["100", "4"]}
    mixed = read_run(example_run("mixed", augment="random_crop:size=6"))
    assert differing([records[0], mixed])["augment.0"] == ["", "random_crop:size=6"]
