"""The attention that is drawn is the model's own, in the places of the patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from rdfia_cli.commands.progress import watch
from rdfia_cli.evaluation import evaluate
from rdfia_cli.report.attention import AttentionPicture, draw_attention
from rdfia_cli.run import load_config

pytestmark = pytest.mark.usefixtures("one_thread")


def look(folder, pooling: str):
    config = load_config(folder)
    return watch(evaluate(folder, config, "test", look_at=5), lambda event: None).attention


@pytest.mark.parametrize("pooling", ["token", "mean"])
def test_what_the_head_reads_looks_at_patches_in_their_places(rdfia, tmp_path, pooling: str):
    model = f"vit:dim=16,patch=2,depth=2,heads=2,pooling={pooling}"
    assert rdfia("train", model, "--epochs", "1", "-q", "--out", "run").code == 0
    maps = look(tmp_path / "run", pooling)
    assert maps.images.shape == (5, 1, 8, 8)
    assert maps.heads.shape == (5, 2, 4, 4)
    assert maps.rollout.shape == (5, 4, 4)
    assert maps.positions.shape == (4, 4, 4, 4)
    # Without a class token the patches get everything; with one it keeps a share.
    shares = maps.heads.sum((2, 3))
    assert torch.allclose(shares, torch.ones(5, 2)) == (pooling == "mean")
    assert ((shares > 0) & (shares <= 1 + 1e-5)).all()
    assert (maps.rollout.sum((1, 2)) <= 1 + 1e-5).all()
    own = maps.positions.flatten(2).flatten(0, 1).diagonal()
    torch.testing.assert_close(own, torch.ones(16))


def test_eval_draws_the_attention(rdfia, tmp_path):
    assert rdfia("train", "vit:dim=8,patch=4", "--epochs", "1", "-q", "--out", "run").code == 0
    outcome = rdfia("eval", "run", "--attention", "attention.png")
    assert outcome.code == 0, outcome.err
    with Image.open(tmp_path / "attention.png") as picture:
        assert min(picture.size) > 300


def test_a_model_without_attention_is_refused(rdfia, tmp_path):
    assert rdfia("train", "mlp", "--epochs", "1", "-q", "--out", "run").code == 0
    outcome = rdfia("eval", "run", "--attention", "attention.png")
    assert outcome.code == 4
    assert "'mlp' has no attention to draw" in outcome.err
    assert not (tmp_path / "attention.png").exists()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("with_positions", [True, False])
def test_any_names_and_images_are_drawn_as_text(tmp_path, channels: int, with_positions: bool):
    random = np.random.default_rng(0)
    content = AttentionPicture(
        title="$runs_{x}$ <script>",
        captions=["$a$", "b_{c}"],
        images=random.random((2, channels, 9, 12), np.float32),
        heads=random.random((2, 3, 3, 4), np.float32),
        rollout=random.random((2, 3, 4), np.float32),
        positions=random.random((3, 4, 3, 4), np.float32) if with_positions else None,
    )
    draw_attention(content, tmp_path / "attention.svg")
    assert "<svg" in (tmp_path / "attention.svg").read_text()
