"""`rdfia sweep` from the command line to the files that it leaves."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rdfia_cli.commands.sweep import threads_of_each

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = ("--data", "circles", "--epochs", "3", "--batch-size", "20", "-q")
RATES = ("--over", "optimizer.lr=0.01,0.03,0.1,0.3")


def sha(folder: Path) -> str:
    return json.loads((folder / "result.json").read_text())["weights_sha256"]


def test_a_sweep_ranks_its_trials_and_leaves_runs_that_others_read(rdfia, tmp_path):
    sweep = ("sweep", "mlp", *SHORT, *RATES, "--out", "rates", "--json")
    outcome = rdfia(*sweep)
    assert outcome.code == 0, outcome.err
    content = outcome.json
    assert content["schema"] == "rdfia.sweep/1"
    stored = json.loads((tmp_path / "rates/sweep.json").read_text())
    assert {**stored, "seconds": 0} == {**content, "seconds": 0}
    results = [
        json.loads((tmp_path / trial["run"] / "result.json").read_text())
        for trial in content["trials"]
    ]
    assert [t["parameters"] for t in content["trials"]] == [
        {"optimizer.lr": rate} for rate in (0.01, 0.03, 0.1, 0.3)
    ]
    assert [t["validation_accuracy"] for t in content["trials"]] == [
        result["validation"]["accuracy"] for result in results
    ]
    assert content["best"]["validation_accuracy"] == max(
        result["validation"]["accuracy"] for result in results
    )
    for picture in ("curves.png", "settings.png"):
        assert (tmp_path / "rates" / picture).stat().st_size > 5_000
    rows = list(csv.DictReader((tmp_path / "rates/trials.csv").read_text().splitlines()))
    assert [row["optimizer.lr"] for row in rows] == ["0.01", "0.03", "0.1", "0.3"]
    evaluated = rdfia("eval", content["best"]["run"], "--json").json
    assert evaluated["test"]["accuracy"] == content["best"]["test_accuracy"]
    # The same command again starts no worker and gives the same table.
    before = (tmp_path / "rates/trials.csv").read_bytes()
    assert rdfia(*sweep).json["trials"] == content["trials"]
    assert (tmp_path / "rates/trials.csv").read_bytes() == before


def test_the_lines_of_a_dry_run_train_the_trials_which_the_sweep_then_collects(rdfia, tmp_path):
    sweep = ("sweep", "mlp", *SHORT, "--over", "seed=0,1", "--over", "model.hidden=3,4")
    shown = rdfia(*sweep, "--out", "s", "--dry-run")
    assert shown.code == 0, shown.err
    assert not (tmp_path / "s").exists()
    lines = shown.out.splitlines()
    assert len(lines) == 4
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "rdfia"
        assert rdfia(*arguments, "-q").code == 0
    outcome = rdfia(*sweep, "--out", "s", "--json")
    assert outcome.code == 0, outcome.err
    assert not list((tmp_path / "s").glob("workers/*"))
    assert [t["parameters"] for t in outcome.json["trials"]] == [
        {"seed": seed, "model.hidden": hidden} for seed in (0, 1) for hidden in (3, 4)
    ]


def test_a_dry_run_as_json_is_one_object_with_the_same_lines(rdfia):
    sweep = ("sweep", "mlp", *SHORT, "--over", "seed=0,1", "--out", "s", "--dry-run")
    lines = rdfia(*sweep).out.splitlines()
    plan = rdfia(*sweep, "--json").json
    assert (plan["schema"], plan["command"], plan["sweep"]) == ("rdfia.sweep-plan/1", "sweep", "s")
    assert plan["trials"] == [
        {
            "number": number,
            "parameters": {"seed": number},
            "run": f"s/trials/000{number}",
            "line": lines[number],
        }
        for number in range(2)
    ]


def test_asking_for_fewer_trials_loses_none_that_ended(rdfia, tmp_path):
    sweep = ("sweep", "mlp", "--data", "circles", "--epochs", "1", "--over", "lr=log:0.001..1")
    asked = (*sweep, "--out", "s", "--json", "-q", "--backend", "process")
    whole = rdfia(*asked, "--trials", "4")
    assert whole.code == 0, whole.err
    table = (tmp_path / "s/trials.csv").read_bytes()
    fewer = rdfia(*asked, "--trials", "2")
    assert fewer.code == 0, fewer.err
    assert fewer.json["trials"] == whole.json["trials"]
    assert fewer.json["best"] == whole.json["best"]
    assert (tmp_path / "s/trials.csv").read_bytes() == table
    assert "2 trials more than the 2 of --trials ended before" in fewer.err


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no processor can be forbidden")
@pytest.mark.parametrize(("workers", "threads"), [(1, 0), (2, 3), (4, 1), (16, 1)])
def test_workers_share_the_processors_that_the_sweep_may_use(monkeypatch, workers, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 3, 5, 7, 9, 11})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert threads_of_each(workers) == threads


CONCLUDE_OFTEN = """
import pathlib, sys, time
from rdfia_cli.commands import sweep
from rdfia_cli.report import sweep as pictures
from rdfia_cli.sources import Sources
from rdfia_cli.sweep.campaign import open_ledger
from rdfia_cli.sweep.question import ask

pictures.draw_sweep = lambda folder: []
flags = dict.fromkeys(("trials", "sampler", "pruner", "round"))
question = ask(Sources({"model": "mlp"}), {**flags, "over": ["seed=0..99:1"], "out": "s"})
open_ledger(question)
pathlib.Path(f"ready{sys.argv[1]}").touch()
while len(list(pathlib.Path().glob("ready*"))) < 2:
    time.sleep(0.001)
for _ in range(50):
    sweep.conclude(question, "auto", 0.0)
"""


def test_processes_that_end_together_write_what_they_found_one_after_the_other(tmp_path):
    processes = [
        subprocess.Popen([sys.executable, "-c", CONCLUDE_OFTEN, str(n)], cwd=tmp_path)
        for n in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    assert len(json.loads((tmp_path / "s/sweep.json").read_text())["trials"]) == 100


MODELS = """
import os, torch
from torch import nn

def good(input):
    return nn.Linear(input.shape[0], input.classes)

def raises(input):
    raise RuntimeError("no such layer")

class Dies(nn.Linear):
    def forward(self, x):
        if self.training:
            os._exit(7)
        return super().forward(x)

def dies(input):
    return Dies(input.shape[0], input.classes)

class Hungry(nn.Linear):
    def forward(self, x):
        if self.training:
            torch.empty(2**37, dtype=torch.uint8).fill_(1)
        return super().forward(x)

def hungry(input):
    return Hungry(input.shape[0], input.classes)
"""


def test_trials_that_fail_in_every_way_are_named_and_harm_no_other(rdfia, tmp_path):
    (tmp_path / "models.py").write_text(MODELS)
    models = ",".join(f"./models.py:{n}" for n in ("good", "raises", "dies", "hungry"))
    outcome = rdfia(
        *("sweep", *SHORT, "--over", f"model={models}", "--over", "lr=0.1,1e30", "--json"),
        *("--out", "s", "--backend", "process", "--retries", "1", "--memory", "8G"),
    )
    assert outcome.code == 3, outcome.err
    found = outcome.json["trials"]
    assert json.loads((tmp_path / "s/sweep.json").read_text())["trials"] == found
    ends = {(t["parameters"]["model"].rpartition(":")[2], t["number"] % 2): t for t in found}
    assert ends["good", 0]["state"] == "finished"
    assert ends["good", 1]["error"] == "diverged"
    assert "no such layer" in ends["raises", 0]["message"]
    assert "ended with 7" in ends["dies", 0]["message"]
    assert ends["hungry", 0]["error"] == "memory"
    assert outcome.err.count("trial 1 failed") == 1
    alone = rdfia(*("train", "./models.py:good", *SHORT, "--lr", "0.1", "--out", "alone", "--json"))
    assert alone.json["weights_sha256"] == sha(tmp_path / ends["good", 0]["run"])


def test_values_may_be_written_as_one_likes(rdfia, tmp_path):
    outcome = rdfia(
        *("sweep", "mlp", "--data", "circles", "--epochs", "1", "-q", "--json", "--out", "s"),
        *("--over", "lr=1e-3,1e-2", "--over", "clip_norm=0.10,1e1", "--backend", "process"),
    )
    assert outcome.code == 0, outcome.err
    assert [t["parameters"] for t in outcome.json["trials"]] == [
        {"optimizer.lr": rate, "clip_norm": norm} for rate in (0.001, 0.01) for norm in (0.1, 10.0)
    ]
    assert (tmp_path / "s/map.png").exists()


def test_a_misspelt_table_is_named_rather_than_that_nothing_varies(rdfia, tmp_path):
    (tmp_path / "s.toml").write_text("[sweeep]\nover = {seed = [0, 1]}\n")
    outcome = rdfia("sweep", "mlp", "--config", "s.toml")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "error: unknown setting 'sweeep' (file s.toml)",
        "did you mean 'sweep'?",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nothing varies"),
        (("--over", "lr=0.1,1", "--lr", "0.1"), "both given and varied"),
        (("--over", "seed=0,1", "--over", "seed=2"), "names seed twice"),
        (("--over", "optimizer.lrr=0.1"), "did you mean"),
        (("--over", "seed=0,1", "--backend", "stackd"), "did you mean 'stacked'"),
        (("--over", "seed=0,1", "--shard", "3/2"), "is no share"),
        (("--over", "seed=0,1", "--memory", "much"), "is no size"),
        (("--over", "seed=0,1", "--sampler", "tpe", "--shard", "1/2"), "has no shards"),
        (("--over", "seed=0,1", "--sampler", "tpe", "--dry-run"), "proposes trials only"),
        (("--over", "seed=0,1", "--address", "auto"), "--address is of Ray"),
        (("--over", "lr=0.1..1", "--sampler", "grid"), "a grid cannot have all numbers"),
        (("--over", "model.hidden=4,x"), "model.hidden = 'x'"),
        (("--over", "seed=0,1", "--pruner", "threshold"), "threshold:KEY=VALUE with lower, upper"),
    ],
)
def test_what_cannot_be_swept_is_refused_and_leaves_nothing(rdfia, tmp_path, arguments, said):
    outcome = rdfia("sweep", "mlp", *SHORT, *arguments)
    assert outcome.code == 2
    assert said in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_a_misspelt_table_of_a_sweep_is_named(rdfia, tmp_path):
    (tmp_path / "q.toml").write_text('[sweeep]\nover = { "optimizer.lr" = "0.1,1" }\n')
    refused = rdfia("sweep", "mlp", "--config", "q.toml")
    assert refused.code == 2
    assert "unknown setting 'sweeep" in refused.err


def test_a_toml_file_may_hold_the_question(rdfia, tmp_path):
    (tmp_path / "q.toml").write_text(
        'recipe = "mlp-circles"\nepochs = 1\n\n[sweep]\nsampler = "random"\ntrials = 3\n'
        'over = { "optimizer.lr" = "log:0.01..1", "model.hidden" = [3, 4] }\n'
    )
    shown = rdfia("sweep", "--config", "q.toml", "--dry-run")
    assert shown.code == 0, shown.err
    lines = shown.out.splitlines()
    assert len(lines) == 3
    assert all("mlp:hidden=" in line and "--batch-size 10" in line for line in lines)
    refused = rdfia("train", "--config", "q.toml")
    assert refused.code == 2
    assert "rdfia sweep --config q.toml" in refused.err
