"""Our own components pass what is asked of a plugin's."""

from __future__ import annotations

import urllib.request

import pytest
from PIL import Image

from rdfia_cli.testing import conformance

pytestmark = [
    pytest.mark.usefixtures("one_thread", "no_network", "photos"),
    # Of what MLflow is built on.
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:sqlalchemy", "ignore::DeprecationWarning:mlflow"
    ),
]

test_built_ins_conform = conformance(
    "rdfia-cli",
    {
        "models": ["mlp:backprop=manual", "cnn:batch_norm=true,dropout=0.5", "timm/resnet10t",
                   "torchvision/squeezenet1_1", "vit:position=sinusoidal,pooling=mean"],
        "augmentations": ["resize:size=24", "pad:size=70", "random_crop:size=16,padding=2"],
        "optimizers": ["sgd:momentum=0.9,nesterov=true,weight_decay=0.01"],
        "schedules": ["cosine:warmup=1", "step:every=1"],
        "datasets": ["folder:path=photos,size=8"],
    },
)  # fmt: skip


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Downloads are refused at once: a dataset that needs one says so, and is not applicable."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    # It remembers the proxies of its first call; later tests are to have their own.
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("RDFIA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    """An image folder for the dataset that reads one."""
    for split in ("train", "test"):
        for number in range(4):
            for kind in ("cat", "dog"):
                (tmp_path / "photos" / split / kind).mkdir(parents=True, exist_ok=True)
                colour = (40 * number, 9 * len(split), 255 if kind == "cat" else 0)
                image = Image.new("RGB", (12, 10), colour)
                image.save(tmp_path / "photos" / split / kind / f"{number}.png")
