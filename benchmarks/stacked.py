"""How many times as fast trials are together as one after the other, and which engine is chosen.

Each row trains the same trials both ways, files and all, in this process, after one warm-up.
Run: uv run python benchmarks/stacked.py
"""

import json
import os
import tempfile
import time
from pathlib import Path

import torch

from rdfia_cli.config import resolve
from rdfia_cli.sources import Sources
from rdfia_cli.sweep.engines import choose_engine
from rdfia_cli.sweep.ordinary import run_ordinary
from rdfia_cli.sweep.stacked import run_stacked
from rdfia_cli.sweep.trial import Trial, TrialFinished

CASES = [
    # name, flags, settings, trials, how many of them one after the other
    ("perceptron 64-32-10", {"model": "mlp:hidden=32", "data": "digits"}, (16, 3), 32, 4),
    ("cnn on digits", {"model": "cnn", "data": "digits"}, (32, 1), 32, 4),
    ("perceptron on circles", {"model": "mlp", "data": "circles"}, (20, 100), 64, 4),
]
CHOSEN = [
    *((name, flags, settings, trials) for name, flags, settings, trials, _ in CASES),
    (
        "cnn on images of 32x32",
        {"model": "cnn", "data": "digits", "augment": ["pad:size=32"]},
        (128, 1),
        32,
    ),
]


def make(flags: dict, settings: tuple[int, int], count: int, folder: str) -> list[Trial]:
    batch_size, epochs = settings
    return [
        Trial(
            number,
            resolve(
                Sources(
                    {**flags, "out": str(Path(folder) / str(number))},
                    [
                        f"batch_size={batch_size}",
                        f"epochs={epochs}",
                        f"optimizer.lr={10 ** (-3 + 2.5 * number / count):.6f}",
                    ],
                )
            ).config,
        )
        for number in range(count)
    ]


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        list(run_stacked(make(CASES[0][1], (16, 1), 2, f"{scratch}/warm")))
        for index, (name, flags, settings, count, singles) in enumerate(CASES):
            stacked = time_all(make(flags, settings, count, f"{scratch}/{index}/s"), together=True)
            trials = make(flags, settings, count, f"{scratch}/{index}/o")[:singles]
            ordinary = time_all(trials, together=False) * count / singles
            rows.append({"case": name, "trials": count, "stacked": stacked, "ordinary": ordinary})
        for name, flags, settings, count in CHOSEN:
            chosen = choose_engine(make(flags, settings, count, f"{scratch}/none"))
            print(f"{name:24} {chosen.engine}: {chosen.reason}")
    print(f"\n{'case':24} {'trials':>6} {'stacked s':>10} {'ordinary s':>11} {'ratio':>6}")
    for row in rows:
        ratio = row["ordinary"] / row["stacked"]
        print(
            f"{row['case']:24} {row['trials']:6} {row['stacked']:10.2f} {row['ordinary']:11.2f} "
            f"{ratio:6.1f}"
        )
    print(
        json.dumps(
            {
                "schema": "rdfia.benchmark/1",
                "threads": torch.get_num_threads(),
                "load": os.getloadavg()[0],
                "results": rows,
            }
        )
    )


def time_all(trials: list[Trial], *, together: bool) -> float:
    """Seconds that all the trials take; every one must finish."""
    began = time.perf_counter()
    runs = [run_stacked(trials)] if together else [run_ordinary(trial) for trial in trials]
    finished = sum(isinstance(event, TrialFinished) for run in runs for event in run)
    assert finished == len(trials), f"{finished} of {len(trials)} trials finished"
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
