"""64 learning rates of a perceptron on circles: `rdfia sweep` against Optuna around a plain loop.

Both start from nothing, a process each: imports, 64 trials of 100 epochs in batches of 20, and
all that they keep (Optuna an SQLite file, rdfia a ledger, 64 run folders, a table and pictures).
Every 8th trial is trained again by `rdfia train`: where its accuracy differs, the benchmark fails.

    python benchmarks/sweep.py [--rounds 3] [--trials 64] [--every 8]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PLAIN = """
import sys
import optuna, torch
from sklearn.datasets import make_circles
from torch import nn

optuna.logging.set_verbosity(optuna.logging.ERROR)
torch.manual_seed(0)

def load(seed):
    inputs, labels = make_circles(200, noise=0.2, factor=0.3, random_state=seed)
    return torch.tensor(inputs, dtype=torch.float32), torch.tensor(labels)

(inputs, labels), (test_inputs, test_labels) = load(0), load(1)
train, validation = torch.arange(180), torch.arange(180, 200)
mean, std = inputs[train].mean(0), inputs[train].std(0)
inputs, test_inputs = (inputs - mean) / std, (test_inputs - mean) / std

def objective(trial):
    lr = trial.suggest_float("lr", 0.001, 1, log=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 100), nn.Tanh(), nn.Linear(100, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for epoch in range(100):
        model.train()
        for chosen in train[torch.randperm(180)].split(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for x, y in ((inputs[validation], labels[validation]), (test_inputs, test_labels)):
                logits = model(x)
                loss = nn.functional.cross_entropy(logits, y).item()
                accuracy = (logits.argmax(1) == y).float().mean().item()
    return accuracy

study = optuna.create_study(
    storage=f"sqlite:///{sys.argv[1]}/study.db", direction="maximize",
    sampler=optuna.samplers.RandomSampler(seed=0),
)
study.optimize(objective, n_trials=int(sys.argv[2]))
"""
SETTINGS = (
    *("mlp", "--data", "circles", "--epochs", "100", "--batch-size", "20", "-q"),
    *("--optimizer", "sgd", "--schedule", "constant"),
)
# Users have compiled modules; where none may be written, both sides would compile at each start.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def time_plain(trials: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, "-c", PLAIN, folder, str(trials)]
        subprocess.run(command, check=True, env=ENVIRONMENT)
        return time.perf_counter() - began


def time_sweep(trials: int, folder: Path) -> float:
    command = [
        *(sys.executable, "-m", "rdfia_cli", "sweep", *SETTINGS, "--trials", str(trials)),
        *("--over", "optimizer.lr=log:0.001..1", "--out", str(folder)),
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT)
    return time.perf_counter() - began


def train_again(folder: Path, every: int) -> list[dict[str, float]]:
    """Some trials again by `rdfia train`, a process each: the accuracies of both."""
    found: list[dict[str, float]] = []
    for trial in json.loads((folder / "sweep.json").read_text())["trials"][::every]:
        rate = trial["parameters"]["optimizer.lr"]
        out = folder / "alone" / str(trial["number"])
        words = ("train", *SETTINGS, "--lr", repr(rate), "--out", str(out), "--json")
        command = [sys.executable, "-m", "rdfia_cli", *words]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=ENVIRONMENT)
        result = json.loads(done.stdout)
        row = {"learning rate": rate}
        for split in ("validation", "test"):
            row[f"{split} in the sweep"] = trial[f"{split}_accuracy"]
            row[f"{split} alone"] = result[split]["accuracy"]
        found.append(row)
    return found


def largest_difference(rows: Sequence[Mapping[str, float]]) -> float:
    """Between the accuracies of a trial in the sweep and alone, of all trials."""
    return max(
        abs(row[f"{split} in the sweep"] - row[f"{split} alone"])
        for row in rows
        for split in ("validation", "test")
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--every", type=int, default=8, help="which trials are trained again")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"optuna": [], "rdfia": []}
    with tempfile.TemporaryDirectory() as place:
        for number in range(options.rounds):
            seconds["optuna"].append(time_plain(options.trials))
            seconds["rdfia"].append(time_sweep(options.trials, Path(place) / str(number)))
        rows = train_again(Path(place) / "0", options.every)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{options.trials} trials, seconds with start-up, median of {options.rounds}:")
    for name, value in medians.items():
        print(f"  {name:8} {value:7.2f}")
    print(f"  ratio    {medians['optuna'] / medians['rdfia']:7.2f}")
    for row in rows:
        print("  " + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))
    difference = largest_difference(rows)
    print(f"  largest difference of {len(rows)} trials from rdfia train: {difference:g}")
    ratio = medians["optuna"] / medians["rdfia"]
    found = {"seconds": seconds, "ratio": ratio, "accuracies": rows, "difference": difference}
    print(json.dumps(found))
    return int(difference != 0)


if __name__ == "__main__":
    sys.exit(main())
