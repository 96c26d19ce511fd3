"""A sweep on a Ray cluster of two nodes runs the same plan into the same ledger."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("ray", reason="comes with rdfia-cli[ray]")


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from ray.cluster_utils import Cluster

    # Both nodes are this machine; each has a worker of its own.
    found = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    found.add_node(num_cpus=1)
    yield found
    found.shutdown()


@pytest.mark.slow
def test_two_nodes_share_the_trials_and_their_weights_are_those_of_this_machine(
    rdfia_process, tmp_path, cluster
):
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


def test_a_cluster_that_is_not_there_is_told_in_a_line(rdfia_process):
    outcome = rdfia_process(
        *("sweep", "mlp", "--data", "circles", "--over", "seed=0,1", "--backend", "ray"),
        *("--address", "127.0.0.1:1"),
    )
    assert outcome.code == 1
    assert "no Ray cluster at '127.0.0.1:1'" in outcome.err
