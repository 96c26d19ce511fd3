"""A sweep on a Ray cluster of two nodes runs the same plan into the same ledger."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rdfia_cli.config import resolve
from rdfia_cli.sources import Sources
from rdfia_cli.sweep.messages import Job, Told
from rdfia_cli.sweep.process import JobDied
from rdfia_cli.sweep.ray import Actors, Remote, connect
from rdfia_cli.sweep.trial import Trial, TrialEpoch, TrialFinished, TrialPruned

pytest.importorskip("ray", reason="comes with rdfia-cli[ray]")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one processor each; both are this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        from ray.cluster_utils import Cluster

        found = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
        )
        found.add_node(num_cpus=1)
        yield found
        found.shutdown()


@pytest.fixture
def make_pool(cluster) -> Iterator[Callable[..., Actors]]:
    """Two workers on the cluster; gone after the test."""
    made: list[Actors] = []

    def make(timeout: float = 0.0) -> Actors:
        made.append(connect(cluster.address, 2, 0, timeout))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


MODELS = """
import time

def hangs(input):
    time.sleep(600)
"""


def job(number: int, *, model: str = "mlp", judged: bool = False) -> Job:
    Path("models.py").write_text(MODELS)
    flags = {"model": model, "data": "circles", "device": "cpu", "out": f"run{number}"}
    trial = Trial(number, resolve(Sources(flags, ["epochs=3", f"seed={number}"])).config)
    return Job("process", "structure", [trial], judged)


def hear(pool: Actors, seconds: float = 240.0) -> Iterator[tuple[Job, Told | JobDied]]:
    """What is told until nothing is under way."""
    end = time.monotonic() + seconds
    while pool.idle < pool.count:
        assert time.monotonic() < end, "nobody noticed"
        yield from pool.reports(0.3)


def finished(told: Iterable[tuple[Job, Told | JobDied]]) -> list[int]:
    return sorted(each.number for _, each in told if isinstance(each, TrialFinished))


def node_of(worker: Remote) -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


@pytest.mark.slow
def test_each_node_trains_a_trial_and_a_worker_that_is_killed_costs_its_job_only(make_pool):
    import ray

    pool = make_pool()
    first, second = job(0), job(1)
    pool.submit(first)
    pool.submit(second)
    assert pool.idle == 0
    nodes = {ray.get(a.handle.__ray_call__.remote(node_of)) for a in pool._actors}
    assert len(nodes) == 2
    assert finished(hear(pool)) == [0, 1]
    hangs, trained = job(2, model="./models.py:hangs"), job(3)
    pool.submit(hangs)
    pool.submit(trained)
    (victim,) = [actor for actor in pool._actors if actor.job is hangs]
    ray.kill(victim.handle)
    told = list(hear(pool))
    ((lost, died),) = [each for each in told if isinstance(each[1], JobDied)]
    assert lost is hangs
    assert died.kind == "crash"
    assert finished(told) == [3]
    pool.submit(job(4))
    assert finished(hear(pool)) == [4]


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_hangs_is_replaced(make_pool):
    pool = make_pool(timeout=10.0)
    pool.submit(job(0, model="./models.py:hangs"))
    *_, (_, last) = hear(pool)
    assert last == JobDied("timeout", "no epoch ended for 10 s")
    assert pool.idle == 2


@pytest.mark.slow
def test_a_trial_on_a_cluster_goes_on_or_is_pruned_as_it_is_answered(make_pool):
    pool = make_pool()
    asking = job(0, judged=True)
    pool.submit(asking)
    told: list[Told | JobDied] = []
    for _, each in hear(pool):
        told.append(each)
        if isinstance(each, TrialEpoch):
            pool.answer(asking, prune=each.epoch == 2)
    assert [each.epoch for each in told if isinstance(each, TrialEpoch)] == [1, 2]
    assert TrialPruned(0, 2) in told


@pytest.mark.slow
def test_a_sweep_on_a_cluster_ends_as_one_on_this_machine(rdfia_process, tmp_path, cluster):
    sweep = (
        *("sweep", "mlp", "--data", "circles", "--epochs", "3", "--batch-size", "20", "-q"),
        *("--over", "optimizer.lr=0.01,0.03,0.1,0.3", "--over", "model.hidden=3,4"),
    )
    alone = rdfia_process(*sweep, "--out", "alone", "--backend", "process")
    assert alone.code == 0, alone.err
    together = rdfia_process(
        *(*sweep, "--out", "ray", "--backend", "ray", "--address", cluster.address),
        OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"),
    )
    assert together.code == 0, together.err
    tables = [
        json.loads((tmp_path / name / "sweep.json").read_text())["trials"]
        for name in ("alone", "ray")
    ]
    for ours, theirs in zip(*tables, strict=True):
        assert ours["parameters"] == theirs["parameters"]
        assert theirs["validation_accuracy"] == pytest.approx(ours["validation_accuracy"])


SWEEP = ("sweep", "mlp", "--data", "circles", "--over", "seed=0,1", "--backend", "ray")


@pytest.mark.parametrize("told", ["by the flag", "by Ray's own variable"])
def test_a_cluster_that_is_not_there_is_told_in_a_line_and_leaves_nothing(
    rdfia_process, tmp_path, told: str
):
    nobody = "127.0.0.1:1"
    if told == "by the flag":
        outcome = rdfia_process(*SWEEP, "--address", nobody)
    else:
        outcome = rdfia_process(*SWEEP, RAY_ADDRESS=nobody)
    assert outcome.code == 1
    assert f"no Ray cluster at '{nobody}'" in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_an_address_of_ray_client_is_refused_with_what_to_do_instead(rdfia, tmp_path):
    outcome = rdfia(*SWEEP, "--address", "ray://head:10001")
    assert outcome.code == 2
    assert "with --address auto" in outcome.err
    assert list(tmp_path.iterdir()) == []
