"""In a real browser a page is drawn, can be read, and nothing breaks out of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rdfia_cli.report.comparison_sections import comparison_page, comparison_sections
from rdfia_cli.report.model_sections import model_sections
from rdfia_cli.report.page import write_page
from rdfia_cli.report.run_record import read_run
from rdfia_cli.report.run_sections import file_sections, run_page, write_run_page
from rdfia_cli.report.sweep_record import read_sweep
from rdfia_cli.report.sweep_sections import sweep_page

HOSTILE = [
    "<script>window.broken = 1</script>",
    "</script><script>window.broken = 1</script>",
    '"><img src=x onerror="window.broken = 1">',
    "<svg onload='window.broken = 1'>",
]


@pytest.fixture
def sweep_file(example_sweep: Callable, tmp_path: Path) -> Path:
    """The page of a sweep of 64 trials."""
    path = tmp_path / "sweep.html"
    write_page(sweep_page(read_sweep(example_sweep(trials=64))), path)
    return path


@pytest.fixture
def run_file(example_run: Callable, findings: Callable, tmp_path: Path) -> Path:
    """The page of a run with everything on it."""
    record = read_run(example_run(epochs=10))
    sections = [*file_sections(record), *model_sections(findings(["cat", "dog", "bird"]))]
    write_page(run_page(record, sections), tmp_path / "run.html")
    return tmp_path / "run.html"


@pytest.fixture
def comparison_file(example_run: Callable, tmp_path: Path) -> Path:
    """The page of three runs."""
    records = [read_run(example_run(f"r{i}", seed=str(i), best=0.7 + i / 10)) for i in range(3)]
    page = comparison_page(records, comparison_sections(records), "three runs")
    write_page(page, tmp_path / "comparison.html")
    return tmp_path / "comparison.html"


def shown(browser: Any, selector: str) -> int:
    """How many elements a reader sees."""
    return browser.evaluate(
        f"[...document.querySelectorAll({selector!r})]"
        ".filter(e => e.getClientRects().length).length"
    )


@pytest.mark.parametrize("kind", ["run_file", "comparison_file", "sweep_file"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_opens_without_a_complaint_and_fits_its_window(browser, request, kind, width):
    path = request.getfixturevalue(kind)
    browser.open(path, width=width)
    assert browser.complaints == []
    assert browser.loaded == [path.as_uri()]
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.evaluate(overflow) <= 0
    assert shown(browser, "section h2") == browser.evaluate(
        "document.querySelectorAll('h2').length"
    )


def test_every_curve_has_a_size_and_lies_in_its_plot(browser, run_file):
    browser.open(run_file)
    outside = browser.evaluate(
        "[...document.querySelectorAll('.plot g path')].filter(p => {"
        " const a = p.getBoundingClientRect(), b = p.closest('.plot').getBoundingClientRect();"
        " return a.right < b.left - 1 || a.left > b.right + 1 || a.bottom < b.top - 1"
        " || a.top > b.bottom + 1 || !(a.width + a.height >= 0); }).length"
    )
    assert outside == 0
    assert shown(browser, ".plot g:not(.quiet) path") >= 10


def test_every_picture_can_be_decoded(browser, run_file):
    browser.open(run_file)
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.evaluate("document.images.length") > 10


def test_a_hostile_name_is_shown_as_text(
    browser, example_run: Callable, findings: Callable, tmp_path
):
    names = [*HOSTILE, "plain"]
    record = read_run(example_run("<img src=x onerror=window.broken=1>"))
    sections = [*file_sections(record), *model_sections(findings(names))]
    write_page(run_page(record, sections, notes=names), tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    browser.hover(".confusion td.wrong")
    assert browser.complaints == []
    assert browser.evaluate("window.broken") is None
    assert browser.evaluate("document.querySelector('h1').textContent") == record.name
    assert (
        browser.evaluate("[...document.querySelectorAll('.notes li')].map(e => e.textContent)")
        == names
    )
    heads = "[...document.querySelectorAll('.confusion tbody th')].map(e => e.textContent)"
    assert browser.evaluate(heads) == names


def test_a_hostile_name_of_a_curve_is_read_out_as_text(browser, example_run: Callable, tmp_path):
    folders = [example_run("<img src=x onerror=window.broken=1>"), example_run("b", seed="1")]
    records = [read_run(folder) for folder in folders]
    write_page(comparison_page(records, comparison_sections(records), "t"), tmp_path / "page.html")
    browser.open(tmp_path / "page.html")
    browser.hover(".plot", 0.9, 0.2)
    assert "<img src=x onerror=window.broken=1>, test" in browser.evaluate("reading.textContent")
    assert browser.evaluate("reading.querySelector('img')") is None
    assert browser.evaluate("window.broken") is None
    assert browser.complaints == []


def test_pointing_at_a_curve_reads_its_values(browser, run_file):
    browser.open(run_file)
    assert browser.evaluate("reading.hidden")
    browser.hover(".plot", 0.99, 0.5)
    text = browser.evaluate("reading.textContent")
    assert "epoch 10" in text
    assert "train93.00%" in text
    assert "test89.00%" in text


def test_the_arrow_keys_read_values_aloud(browser, run_file):
    browser.open(run_file)
    browser.evaluate("document.querySelector('.plot').focus()")
    browser.press("ArrowRight")
    browser.press("ArrowRight")
    assert browser.evaluate("spoken.textContent").startswith("epoch 2, train ")
    browser.press("Escape")
    assert browser.evaluate("reading.hidden")


def test_a_curve_can_be_switched_off_and_on_again(browser, run_file):
    browser.open(run_file)
    button = "document.querySelector('[data-switch=\"train\"]')"
    before = shown(browser, "#curves .plot g.line path")
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(f"{button}.getAttribute('aria-pressed')") == "false"
    assert shown(browser, "#curves .plot g.line path") == before - 2
    browser.hover(".plot", 0.99, 0.5)
    assert "train" not in browser.evaluate("reading.textContent")
    browser.evaluate(f"{button}.click()")
    assert shown(browser, "#curves .plot g.line path") == before


def test_a_run_and_a_split_are_both_switches_of_a_comparison(browser, comparison_file):
    browser.open(comparison_file)
    assert shown(browser, ".plot g.line path") == 2 * 3 * 2
    browser.evaluate("document.querySelector('[data-switch=\"r1\"]').click()")
    assert shown(browser, ".plot g.line path") == 2 * 2 * 2
    browser.evaluate("document.querySelector('[data-switch=\"validation\"]').click()")
    assert shown(browser, ".plot g.line path") == 2 * 2 * 3


def test_the_trials_of_a_sweep_can_be_sorted(browser, sweep_file):
    browser.open(sweep_file)
    rows = "[...document.querySelectorAll('#ranking tbody tr')]"
    column = f"(n => {rows}.map(row => row.cells[n].textContent))"
    assert browser.evaluate(f"{column}(0)[0]") == "1"
    button = "document.querySelectorAll('#ranking th button')"
    browser.evaluate(f"{button}[2].click()")
    falling = [float(text) for text in browser.evaluate(f"{column}(2)")]
    assert falling == sorted(falling, reverse=True)
    browser.evaluate(f"{button}[2].click()")
    assert [float(text) for text in browser.evaluate(f"{column}(2)")] == sorted(falling)
    assert browser.evaluate(f"{button}[2].parentElement.getAttribute('aria-sort')") == "ascending"


def test_a_dot_of_a_sweep_tells_its_trial(browser, sweep_file):
    browser.open(sweep_file)
    browser.evaluate("document.querySelector('#settings .plot').focus()")
    browser.press("ArrowRight")
    text = browser.evaluate("reading.textContent")
    assert "trial" in text
    assert "optimizer.lr" in text


@contextlib.contextmanager
def without_scripts(browser: Any) -> Iterator[None]:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        yield
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_without_scripts_the_curves_are_there(browser, run_file):
    with without_scripts(browser):
        browser.open(run_file)
        assert shown(browser, "#curves .plot g.line path") >= 6
        assert browser.evaluate("document.documentElement.className") == ""
        assert shown(browser, "[data-copy]") == 0


def test_a_page_is_dark_where_the_reader_wants_it_dark(browser, run_file):
    colours = []
    for dark in (False, True):
        browser.open(run_file, dark=dark)
        colours.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_a_page_can_be_printed(browser, run_file, tmp_path):
    browser.open(run_file, dark=True)
    browser.print(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def test_the_command_is_copied_as_it_stands(browser, run_file):
    browser.open(run_file)
    found = browser.evaluate(
        "new Promise(done => { navigator.clipboard.writeText = async text => done(text);"
        " document.querySelector('[data-copy]').click(); })"
    )
    assert found.startswith("rdfia train mlp --data digits")
    assert found == browser.evaluate("document.querySelector('.command code').textContent")


def test_the_page_that_training_writes_opens(browser, example_run: Callable):
    folder = example_run()
    write_run_page(folder)
    browser.open(folder / "report.html")
    assert browser.complaints == []
    assert shown(browser, ".plot g.line path") >= 6
