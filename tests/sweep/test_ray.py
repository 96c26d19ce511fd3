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
