"""What every logger promises."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rdfia_cli import registry
from rdfia_cli.config import resolve
from rdfia_cli.errors import BuilderError, ComponentError
from rdfia_cli.run import CONFIG, METRICS
from rdfia_cli.sources import Sources
from rdfia_cli.spec import Logger
from rdfia_cli.testing.subject import NotApplicableError, Subject, require

Line = Mapping[str, Any]

SPLITS = ("train", "validation", "test")


def _lines() -> list[Line]:
    """Objects of `metrics.jsonl`: of a step, of an epoch, of one without a validation split."""
    return [
        {"epoch": 1, "step": 3, "steps_per_epoch": 6, "loss": 0.7},
        {"epoch": 1, "learning_rate": 0.1, **{split: _score() for split in SPLITS}},
        {"epoch": 2, "learning_rate": 1e-5, "train": _score(), "test": _score()},
    ]


def _score() -> dict[str, float]:
    return {"loss": 0.5, "accuracy": 0.75, "top5": 1.0}


@contextlib.contextmanager
def _run(subject: Subject) -> Generator[tuple[Path, Callable[[], Logger]]]:
    """The folder of a run, and what makes its logger.

    What is around it is the working directory, so that nothing is left elsewhere.
    """
    settings, config = subject.settings, resolve(Sources({})).config.values()
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        contextlib.chdir(name),
    ):
        folder = Path(name) / "run"
        folder.mkdir()

        def build() -> Logger:
            try:
                built = registry.build(subject.component, folder, config, **settings)
            except BuilderError:
                raise
            except ComponentError as error:  # it says itself that it cannot do its work here
                raise NotApplicableError(error.fact) from None
            require(isinstance(built, Logger), f"it returns {type(built).__name__}, no Logger")
            return built

        yield folder, build


def _tell(build: Callable[[], Logger], lines: Sequence[Line], *, complete: bool) -> None:
    logger = build()
    for line in lines:
        logger.write(line)
    logger.close(complete=complete)


def nothing_is_written_before_the_first_line(subject: Subject) -> None:
    """Building it writes nothing into the run folder, and neither does closing it untold."""
    with _run(subject) as (folder, build):
        build().close(complete=False)
        written = sorted(path.name for path in folder.iterdir())
        require(not written, f"it wrote {', '.join(written)} before it was told anything")


def every_line_is_taken(subject: Subject) -> None:
    """It takes lines of steps and of epochs, with a validation split and without one."""
    with _run(subject) as (_, build):
        _tell(build, _lines(), complete=True)


def a_run_that_goes_on_tells_all_again(subject: Subject) -> None:
    """A run that was stopped and goes on may tell it once more what it was told before."""
    with _run(subject) as (_, build):
        _tell(build, _lines()[:2], complete=False)
        _tell(build, _lines(), complete=True)


def the_lines_and_the_run_stay_as_they_are(subject: Subject) -> None:
    """It changes neither the lines that it is told nor the run's own files."""
    with _run(subject) as (folder, build):
        own = {folder / CONFIG: b"epochs = 2\n", folder / METRICS: b"{}\n"}
        for path, content in own.items():
            path.write_bytes(content)
        lines = _lines()
        _tell(build, lines, complete=True)
        require(lines == _lines(), "it changed a line")
        for path, content in own.items():
            kept = path.exists() and path.read_bytes() == content
            require(kept, f"it changed {path.name}, which is the run's own")


CHECKS = (
    nothing_is_written_before_the_first_line,
    every_line_is_taken,
    a_run_that_goes_on_tells_all_again,
    the_lines_and_the_run_stay_as_they_are,
)
