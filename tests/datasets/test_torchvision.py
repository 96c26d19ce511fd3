"""Published datasets are read as torchvision reads them, downloaded once, and never unpickled."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets as reference
from scipy.io import savemat

from rdfia_cli.commands.progress import watch
from rdfia_cli.datasets import torchvision as published
from rdfia_cli.datasets.download import find_root
from rdfia_cli.errors import PreemptedError, RdfiaError, UsageError
from rdfia_cli.spec import Preparing, Splits

DRAWS = np.random.default_rng(0)
COUNTS = {"train": 30, "test": 20}
REAL = Path(os.environ.get("RDFIA_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def load(work: Any, events: list[Preparing] | None = None) -> Splits:
    return watch(work, (events if events is not None else []).append)


def checksum(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def draw(*shape: int, below: int = 256) -> np.ndarray:
    return DRAWS.integers(below, size=shape, dtype=np.uint8)


def mnist_files(first: int = 0) -> dict[str, bytes]:
    """Four files in MNIST's order: images and labels of train, then of test."""
    found = {}
    for name, count in (("train", COUNTS["train"]), ("t10k", COUNTS["test"])):
        found[f"{name}-images-idx3-ubyte"] = idx(draw(count, 28, 28))
        found[f"{name}-labels-idx1-ubyte"] = idx(draw(count, below=10) + first)
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder that is served, its address, and what was asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_request(self, *_: Any) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{serving.server_port}/", asked
        serving.shutdown()


@pytest.fixture
def offer(server, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, bytes]]:
    """Serve a small MNIST in place of the published one."""
    folder, address, _ = server

    def serve() -> dict[str, bytes]:
        files = mnist_files()
        resources = []
        for name, content in files.items():
            packed = gzip.compress(content, mtime=0)
            (folder / f"{name}.gz").write_bytes(packed)
            resources.append((f"{name}.gz", checksum(packed)))
        monkeypatch.setattr(reference.MNIST, "resources", resources)
        monkeypatch.setattr(reference.MNIST, "mirrors", [address + "gone/", address])
        return files

    return serve


def equal(splits: Splits, train: Any, test: Any) -> None:
    """Our pixels and labels are those that torchvision's datasets give, image by image."""
    for ours, theirs in ((splits.train, train), (splits.test, test)):
        images = ours.take(torch.arange(len(ours)))
        assert len(ours) == len(theirs)
        for index, (image, label) in enumerate(theirs):
            pixels = torch.from_numpy(np.array(image))
            pixels = pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0)
            assert torch.equal(images[index], pixels)
            assert ours.labels[index] == label


def test_mnist_is_downloaded_once_and_read_as_torchvision_reads_it(offer, server, tmp_path):
    offer()
    events: list[Preparing] = []
    splits = load(published.mnist(tmp_path / "cache"), events)
    assert {event.unit for event in events} == {"bytes", "images"}
    root = tmp_path / "cache" / "downloads"
    asked = len(server[2])
    again = load(published.mnist(tmp_path / "cache"))
    assert len(server[2]) == asked, "the second start asks nobody"
    assert splits.classes == tuple(reference.MNIST.classes)
    for name in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            packed = root / "MNIST" / "raw" / f"{name}-{kind}-ubyte.gz"
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    for found in (splits, again):
        equal(found, reference.MNIST(root), reference.MNIST(root, train=False))


def test_a_folder_of_the_users_own_is_read_and_never_written_to(tmp_path, monkeypatch):
    raw = tmp_path / "mine" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in mnist_files().items():
        (raw / name).write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("no network"))
    splits = load(published.mnist(tmp_path / "cache", path=str(tmp_path / "mine")))
    equal(splits, reference.MNIST(tmp_path / "mine"), reference.MNIST(tmp_path / "mine", False))
    mine = [path for path in sorted(tmp_path.rglob("*")) if "cache" not in path.parts]
    assert mine == before


def test_without_network_the_error_names_the_file_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setattr(reference.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(RdfiaError) as caught:
        load(published.mnist(tmp_path))
    assert "train-images-idx3-ubyte.gz" in caught.value.fact
    assert str(tmp_path / "downloads" / "MNIST" / "raw") in caught.value.remedy
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(offer, server, tmp_path):
    offer()
    (server[0] / "train-images-idx3-ubyte.gz").write_bytes(b"something else")
    with pytest.raises(RdfiaError, match="it has the md5"):
        load(published.mnist(tmp_path / "cache"))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_an_abandoned_download_leaves_nothing_and_the_next_one_completes(offer, tmp_path):
    offer()
    work = published.mnist(tmp_path / "cache")
    next(work)
    work.close()
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    assert len(load(published.mnist(tmp_path / "cache")).train) == COUNTS["train"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0\0\x08\x03",
        idx(draw(30, 28, 28))[:-1],
        idx(draw(30, 28, 28)) + b"\0",
        bytes([0, 0, 8, 3]) + b"\xff" * 12 + b"\0" * 100,
        b"\0\0\x0d\x03" + idx(draw(30, 28, 28))[4:],
    ],
)
def test_a_damaged_idx_file_is_refused(content: bytes, tmp_path: Path):
    with pytest.raises(RdfiaError, match="is damaged"):
        published.parse_idx(content, tmp_path / "images", axes=3)


def place_mnist(root: Path, **changed: np.ndarray) -> Path:
    """A small unpacked MNIST; `changed` replaces arrays, with _ for - in the names."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    files = mnist_files() | {name.replace("_", "-"): idx(a) for name, a in changed.items()}
    for name, content in files.items():
        (raw / name).write_bytes(content)
    return root


def test_own_files_that_changed_are_read_anew_and_that_is_said(tmp_path: Path):
    root = place_mnist(tmp_path / "mine", train_labels_idx1_ubyte=np.zeros(30))
    first = load(published.mnist(tmp_path / "cache", path=str(root)))
    place_mnist(root, train_labels_idx1_ubyte=np.ones(30))
    second = load(published.mnist(tmp_path / "cache", path=str(root)))
    third = load(published.mnist(tmp_path / "cache", path=str(root)))
    assert [s.train.labels.unique().tolist() for s in (first, second, third)] == [[0], [1], [1]]
    assert [len(s.warnings) for s in (first, second, third)] == [0, 1, 0]
    assert len(list((tmp_path / "cache" / "stores").glob("mnist-*"))) == 1


def test_a_prepared_download_needs_its_files_no_more(offer, tmp_path: Path):
    offer()
    load(published.mnist(tmp_path / "cache"))
    for file in (tmp_path / "cache" / "downloads").rglob("*.gz"):
        file.unlink()
    assert load(published.mnist(tmp_path / "cache")).warnings == ()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"train_images_idx3_ubyte": np.zeros(30)}, "train-images-idx3-ubyte' is damaged"),
        ({"t10k_labels_idx1_ubyte": np.zeros((20, 2, 2))}, "t10k-labels-idx1-ubyte' is damaged"),
        ({"t10k_images_idx3_ubyte": np.zeros((20, 27, 27))}, "images of 27x27, and train of 28x28"),
        ({"t10k_labels_idx1_ubyte": np.zeros(19)}, "20 images and 19 labels"),
        ({"train_labels_idx1_ubyte": np.full(30, 10)}, "labels outside 0 to 9"),
        ({"train_images_idx3_ubyte": np.zeros((0, 28, 28))}, "0 images and 30 labels"),
    ],
)
def test_files_that_do_not_fit_together_are_refused_by_name(changed, told: str, tmp_path: Path):
    root = place_mnist(tmp_path / "mine", **changed)
    with pytest.raises(RdfiaError, match=told):
        load(published.mnist(tmp_path / "cache", path=str(root)))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_an_own_folder_without_the_files_is_a_wrong_value(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match="train-images-idx3-ubyte") as caught:
        load(published.mnist(tmp_path / "cache", path=str(tmp_path / "mine")))
    assert "or unpacked as 'train-images-idx3-ubyte'" in caught.value.remedy


@pytest.mark.parametrize("name", ["mnist", "emnist", "cifar10", "svhn"])
def test_an_own_folder_that_is_not_there_is_named_as_such(tmp_path: Path, name: str):
    with pytest.raises(UsageError, match="there is no folder 'nowhere'"):
        load(getattr(published, name)(tmp_path / "cache", path="nowhere"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file, not a folder"):
        load(getattr(published, name)(tmp_path / "cache", path="file"))


@pytest.mark.parametrize("given", ["", "MNIST", "MNIST/raw"])
def test_any_folder_on_the_way_to_the_files_means_the_same(tmp_path: Path, given: str):
    root = place_mnist(tmp_path / "mine")
    first = load(published.mnist(tmp_path / "cache", path=str(root)))
    events: list[Preparing] = []
    again = load(published.mnist(tmp_path / "cache", path=str(root / given)), events)
    assert events == [], "it is the same store"
    assert again.fingerprint == first.fingerprint


def test_a_folder_that_only_bears_the_name_is_a_root_itself(tmp_path: Path):
    (tmp_path / "MNIST").mkdir()
    root = place_mnist(tmp_path / "MNIST")
    assert find_root(str(root), "MNIST/raw") == root
    assert find_root(str(root / "MNIST"), "MNIST/raw") == root
    assert find_root(str(root / "MNIST/raw"), "MNIST/raw") == root


def test_without_network_one_error_names_all_the_files(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(reference.MNIST, "mirrors", ["http://127.0.0.1:9/", "http://localhost:9/"])
    with pytest.raises(RdfiaError) as caught:
        load(published.mnist(tmp_path))
    for name, md5 in reference.MNIST.resources:
        assert f"{name} (md5 {md5})" in caught.value.remedy
    assert "127.0.0.1: " in caught.value.fact
    assert "localhost: " in caught.value.fact


def cifar_batches(kind: Any, key: str, classes: int) -> dict[str, bytes]:
    """Small batches under the names of CIFAR's."""
    found = {}
    for name, _ in (*kind.train_list, *kind.test_list):
        labels = DRAWS.integers(classes, size=4).tolist()
        found[name] = pickle.dumps({"data": draw(4, 3072), key: labels}, protocol=2)
    names = [f"class {number}" for number in range(classes)]
    found[kind.meta["filename"]] = pickle.dumps({kind.meta["key"]: names}, protocol=2)
    return found


def place_cifar(kind: Any, root: Path, files: dict[str, bytes], monkeypatch, *, packed: bool):
    """Lay small batches out as torchvision does, extracted or as the archive, with their md5s."""

    def listed(entries: Any) -> list:
        return [[name, checksum(files[name])] for name, _ in entries]

    monkeypatch.setattr(kind, "train_list", listed(kind.train_list))
    monkeypatch.setattr(kind, "test_list", listed(kind.test_list))
    meta = kind.meta["filename"]
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": checksum(files[meta])})
    if not packed:
        (root / kind.base_folder).mkdir(parents=True)
        for name, content in files.items():
            (root / kind.base_folder / name).write_bytes(content)
        return
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as opened:
        for name, content in {**files, "../escaped": b"!"}.items():
            entry = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            entry.size = len(content)
            opened.addfile(entry, io.BytesIO(content))
    root.mkdir(parents=True)
    (root / kind.filename).write_bytes(archive.getvalue())
    monkeypatch.setattr(kind, "tgz_md5", checksum(archive.getvalue()))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "key", "classes"), [("10", "labels", 10), ("100", "fine_labels", 100)]
)
def test_cifar_is_read_as_torchvision_reads_it_and_nothing_is_extracted(
    tmp_path, monkeypatch, packed: bool, name: str, key: str, classes: int
):
    kind = getattr(reference, f"CIFAR{name}")
    files = cifar_batches(kind, key, classes)
    root = tmp_path / "root"
    place_cifar(kind, root, files, monkeypatch, packed=packed)
    before = sorted(tmp_path.rglob("*"))
    splits = load(getattr(published, f"cifar{name}")(tmp_path / "cache", path=str(root)))
    assert [p for p in sorted(tmp_path.rglob("*")) if "cache" not in p.parts] == before
    if packed:
        with tarfile.open(root / kind.filename) as opened:
            members = [m for m in opened.getmembers() if "escaped" not in m.name]
            opened.extractall(root, members, filter="data")
    equal(splits, kind(root), kind(root, train=False))
    assert splits.classes == tuple(f"class {number}" for number in range(classes))


class Harmful:
    """A pickle that runs a command when it is read."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("harmed",)


def test_a_pickle_that_asks_for_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    files = cifar_batches(reference.CIFAR10, "labels", 10)
    files["data_batch_3"] = pickle.dumps({"data": Harmful(), "labels": []})
    place_cifar(reference.CIFAR10, tmp_path / "root", files, monkeypatch, packed=False)
    with pytest.raises(RdfiaError, match=r"it asks for posix\.mkdir"):
        load(published.cifar10(tmp_path / "cache", path=str(tmp_path / "root")))
    assert not Path("harmed").exists()
    assert not list((tmp_path / "cache" / "stores").glob("cifar*"))


def test_a_changed_batch_is_refused(tmp_path, monkeypatch):
    files = cifar_batches(reference.CIFAR10, "labels", 10)
    place_cifar(reference.CIFAR10, tmp_path / "root", files, monkeypatch, packed=False)
    with (tmp_path / "root" / "cifar-10-batches-py" / "test_batch").open("ab") as file:
        file.write(b"!")
    with pytest.raises(RdfiaError, match="test_batch' is not the published file"):
        load(published.cifar10(tmp_path / "cache", path=str(tmp_path / "root")))


@pytest.mark.parametrize(
    "content",
    [
        {"data": np.zeros((4, 3071), np.uint8), "labels": [0] * 4},
        {"data": np.zeros((4, 3072), np.float32), "labels": [0] * 4},
        {"data": np.zeros((4, 3072), np.uint8), "labels": [0] * 3},
        {"data": np.zeros((4, 3072), np.uint8), "labels": ["cat"] * 4},
        {"labels": [0] * 4},
        [],
    ],
    ids=["values", "type", "count", "text", "no data", "no dictionary"],
)
def test_a_batch_of_another_shape_is_refused_by_name(content, tmp_path: Path, monkeypatch):
    files = cifar_batches(reference.CIFAR10, "labels", 10)
    files["data_batch_2"] = pickle.dumps(content, protocol=2)
    place_cifar(reference.CIFAR10, tmp_path / "root", files, monkeypatch, packed=True)
    with pytest.raises(RdfiaError, match="data_batch_2' is no CIFAR batch"):
        load(published.cifar10(tmp_path / "cache", path=str(tmp_path / "root")))


@pytest.mark.parametrize("extra", [False, True])
def test_svhn_is_read_as_torchvision_reads_it(tmp_path, monkeypatch, extra: bool):
    listed = {}
    for split, (url, name, _) in reference.SVHN.split_list.items():
        labels = DRAWS.integers(1, 11, size=(5, 1)).astype(np.uint8)
        savemat(tmp_path / name, {"X": draw(32, 32, 3, 5), "y": labels})
        listed[split] = [url, name, checksum((tmp_path / name).read_bytes())]
    monkeypatch.setattr(reference.SVHN, "split_list", listed)
    splits = load(published.svhn(tmp_path / "cache", extra=extra, path=str(tmp_path)))
    train = list(reference.SVHN(tmp_path, "train"))
    train += list(reference.SVHN(tmp_path, "extra")) if extra else []
    equal(splits, train, reference.SVHN(tmp_path, "test"))


@pytest.mark.parametrize("split", ["balanced", "letters"])
def test_emnist_is_upright_and_its_letters_begin_with_0(tmp_path, monkeypatch, split: str):
    first = 1 if split == "letters" else 0
    files = {name.replace("t10k", "test"): content for name, content in mnist_files(first).items()}
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    with zipfile.ZipFile(raw / "gzip.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"gzip/emnist-{split}-{name}.gz", gzip.compress(content))
            (raw / f"emnist-{split}-{name}").write_bytes(content)
    monkeypatch.setattr(reference.EMNIST, "md5", checksum((raw / "gzip.zip").read_bytes()))
    theirs = [reference.EMNIST(tmp_path, split, train=train) for train in (True, False)]
    upright = [
        [(image.transpose(5), label - first) for image, label in dataset] for dataset in theirs
    ]
    for path in raw.glob("emnist-*"):
        path.unlink()
    splits = load(published.emnist(tmp_path / "cache", split=split, path=str(tmp_path)))
    equal(splits, *upright)
    assert "N/A" not in splits.classes


@pytest.mark.slow
def test_the_real_mnist_is_read_as_torchvision_reads_it(tmp_path):
    if not (REAL / "mnist.tar.xz").exists():
        pytest.skip(f"no mnist.tar.xz in {REAL}: set RDFIA_TEST_DATA")
    with tarfile.open(REAL / "mnist.tar.xz") as archive, contextlib.suppress(KeyError):
        archive.extractall(tmp_path, filter="data")
    splits = load(published.mnist(tmp_path / "cache", path=str(tmp_path)))
    assert (len(splits.train), len(splits.test)) == (60_000, 10_000)
    equal(splits, reference.MNIST(tmp_path), reference.MNIST(tmp_path, train=False))


@pytest.mark.parametrize("reader", ["CIFAR", "SVHN"])
def test_a_request_to_stop_is_no_damage(tmp_path: Path, monkeypatch, reader: str):
    def stop(*_: object, **__: object) -> None:
        raise PreemptedError("stopped by SIGTERM", "", 15)

    monkeypatch.setattr(published.ArrayUnpickler, "load", stop)
    monkeypatch.setattr("scipy.io.loadmat", stop)
    with pytest.raises(PreemptedError):
        if reader == "CIFAR":
            published.load_arrays(b"", tmp_path)
        else:
            published._load_matlab(tmp_path)


def test_files_of_another_content_have_another_fingerprint(tmp_path: Path):
    def opened(folder: str, seed: int) -> Splits:
        raw = tmp_path / folder / "MNIST/raw"
        raw.mkdir(parents=True, exist_ok=True)
        draws = np.random.default_rng(seed)
        for part, count in (("train", 30), ("t10k", 20)):
            images = draws.integers(256, size=(count, 28, 28), dtype=np.uint8)
            (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
        return load(published.mnist(tmp_path / "cache", path=str(tmp_path / folder)))

    one, copy, other = opened("one", 0), opened("copy", 0), opened("other", 1)
    assert one.fingerprint == copy.fingerprint != ""
    assert other.fingerprint != one.fingerprint
    assert opened("one", 1).fingerprint == other.fingerprint
