"""The published datasets that torchvision knows: their addresses and checksums are torchvision's.

Files lie as torchvision lays them out, so that a folder made by either serves both. Nothing is
extracted: archives are read in memory, and CIFAR's pickles by an unpickler that knows arrays only.
What was decoded goes to the store; later starts need neither the files nor torchvision.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdfia_cli import cache
from rdfia_cli.datasets import store
from rdfia_cli.datasets.download import Published, obtain, refuse_changed
from rdfia_cli.errors import RdfiaError
from rdfia_cli.spec import Preparing, Splits

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    from numpy.typing import NDArray

VERSION = 1
"""Of the way from the files to the store; another number decodes anew."""
OPTION = "data.path"
IDX_IMAGES, IDX_LABELS = 0x803, 0x801
LARGEST_MEMBER = 2**30
"""Bytes that one file of an archive may unpack to: EMNIST's largest has 547 MB."""


@dataclass(frozen=True)
class Decoded:
    """A dataset in memory.

    Attributes:
        images: for each split (N, H, W, C) uint8.
        labels: for each split (N,).
        classes: the name of each class, in the order of the labels.
    """

    images: Mapping[str, NDArray[np.uint8]]
    labels: Mapping[str, NDArray[Any]]
    classes: tuple[str, ...]


def mnist(root: Path, *, path: str | None = None) -> Generator[Preparing, None, Splits]:
    """MNIST: 60,000 and 10,000 handwritten digits, 1x28x28 (LeCun et al. 1998).

    Args:
        root: the cache, to which it is downloaded once.
        path: the root of an existing torchvision download, or none.
    """
    return _open(root, "mnist", {}, path, lambda at, fetch: _read_mnist(at, fetch, "MNIST"))


def fashion_mnist(root: Path, *, path: str | None = None) -> Generator[Preparing, None, Splits]:
    """Fashion-MNIST: 60,000 and 10,000 pieces of clothing, 1x28x28 (Xiao et al. 2017).

    Args:
        root: the cache, to which it is downloaded once.
        path: the root of an existing torchvision download, or none.
    """
    return _open(
        root, "fashion_mnist", {}, path, lambda at, fetch: _read_mnist(at, fetch, "FashionMNIST")
    )


def emnist(
    root: Path,
    *,
    split: Literal["balanced", "byclass", "bymerge", "digits", "letters", "mnist"] = "balanced",
    path: str | None = None,
) -> Generator[Preparing, None, Splits]:
    """EMNIST: handwritten digits and letters, 1x28x28, upright (Cohen et al. 2017).

    The published images are transposed, and torchvision leaves them so; here they are upright.

    Args:
        root: the cache, to which it is downloaded once.
        split: which of its six divisions into classes.
        path: the root of an existing torchvision download, or none.
    """
    return _open(
        root, "emnist", {"split": split}, path, lambda at, fetch: _read_emnist(at, fetch, split)
    )


def cifar10(root: Path, *, path: str | None = None) -> Generator[Preparing, None, Splits]:
    """CIFAR-10: 50,000 and 10,000 images of ten classes, 3x32x32 (Krizhevsky 2009).

    Args:
        root: the cache, to which it is downloaded once.
        path: the root of an existing torchvision download, or none.
    """
    return _open(root, "cifar10", {}, path, lambda at, fetch: _read_cifar(at, fetch, "CIFAR10"))


def cifar100(root: Path, *, path: str | None = None) -> Generator[Preparing, None, Splits]:
    """CIFAR-100: 50,000 and 10,000 images of a hundred classes, 3x32x32 (Krizhevsky 2009).

    Args:
        root: the cache, to which it is downloaded once.
        path: the root of an existing torchvision download, or none.
    """
    return _open(root, "cifar100", {}, path, lambda at, fetch: _read_cifar(at, fetch, "CIFAR100"))


def svhn(
    root: Path, *, extra: bool = False, path: str | None = None
) -> Generator[Preparing, None, Splits]:
    """SVHN: 73,257 and 26,032 house numbers, 3x32x32 (Netzer et al. 2011).

    Args:
        root: the cache, to which it is downloaded once.
        extra: train on the 531,131 easier images too.
        path: the root of an existing torchvision download, or none.
    """
    return _open(
        root, "svhn", {"extra": extra}, path, lambda at, fetch: _read_svhn(at, fetch, extra)
    )


def _open(
    root: Path,
    name: str,
    options: Mapping[str, Any],
    path: str | None,
    read: Callable[[Path, bool], Generator[Preparing, None, Decoded]],
) -> Generator[Preparing, None, Splits]:
    """Open the store of a dataset, reading the dataset into it first where there is none."""
    source = root / cache.DOWNLOADS if path is None else Path(path).expanduser().resolve()
    key = {"version": VERSION, **options, "path": None if path is None else str(source)}
    place = cache.store_folder(root, name, key)
    if cache.read_store(place) is None:
        with store.preparing(root, place):
            if cache.read_store(place) is None:
                decoded = yield from read(source, path is None)
                yield Preparing(f"storing {name}", 0, None, "images")
                _write(root, name, key, source, decoded)
    found = cache.read_store(place)
    assert found is not None
    return store.open_store(found)


def _write(root: Path, name: str, key: Mapping[str, Any], source: Path, decoded: Decoded) -> None:
    images, labels = decoded.images, decoded.labels
    height, width, channels = images["train"].shape[1:]
    manifest = cache.Manifest(
        name=name,
        key=key,
        shape=(height, width, channels),
        splits={split: len(found) for split, found in images.items()},
        classes=decoded.classes,
        skipped=(),
        notes=(),
        source=str(source),
        evidence={},
    )
    with store.drafting(root, manifest) as draft:
        start = 0
        for split, found in images.items():
            _refuse_mismatch(split, found, labels[split], len(decoded.classes), source)
            draft.images[start : start + len(found)] = found
            draft.labels[start : start + len(found)] = labels[split]
            start += len(found)


def _refuse_mismatch(
    split: str, images: NDArray[np.uint8], labels: NDArray[Any], classes: int, source: Path
) -> None:
    if len(images) != len(labels) or not len(labels):
        raise RdfiaError(
            f"the {split} split in '{source}' has {len(images)} images and {len(labels)} labels",
            "delete its files, and get them again",
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise RdfiaError(
            f"the {split} split in '{source}' has labels outside 0 to {classes - 1}",
            "delete its files, and get them again",
        )


def _read_mnist(root: Path, fetch: bool, name: str) -> Generator[Preparing, None, Decoded]:
    from torchvision import datasets

    kind: Any = getattr(datasets, name)
    contents: list[bytes] = []
    for file, md5 in kind.resources:
        plain = root / name / "raw" / Path(file).stem
        if plain.exists():
            contents.append(plain.read_bytes())
            continue
        urls = tuple(f"{mirror}{file}" for mirror in kind.mirrors)
        found = yield from obtain(
            Published(plain.with_name(file), urls, md5), download=fetch, option=OPTION
        )
        contents.append(_unzip(found, found.open("rb")))
    folder = root / name / "raw"
    train, train_labels, test, test_labels = (parse_idx(content, folder) for content in contents)
    return Decoded(
        {"train": train[..., None], "test": test[..., None]},
        {"train": train_labels, "test": test_labels},
        tuple(kind.classes),
    )


def parse_idx(content: bytes, source: Path) -> NDArray[np.uint8]:
    """The array in a file of MNIST's format: (N, H, W) or (N,) uint8.

    Raises:
        RdfiaError: it is of another format, or too short or long.
    """
    magic = int.from_bytes(content[:4])
    if magic in (IDX_IMAGES, IDX_LABELS) and len(content) >= 4 + 4 * (magic & 0xFF):
        axes = magic & 0xFF
        shape = tuple(np.frombuffer(content, ">u4", axes, 4).tolist())
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
        if len(values) == int(np.prod(shape, dtype=object)):
            return values.reshape(shape)
    raise RdfiaError(
        f"a file in '{source}' is damaged: it is not {len(content)} bytes of MNIST's format",
        "delete it, and get it again",
    )


def _unzip(source: Path, stream: Any) -> bytes:
    """The content of a gzip stream, bounded."""
    try:
        with stream, gzip.open(stream) as file:
            content = file.read(LARGEST_MEMBER + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RdfiaError(f"'{source}' is damaged: {error}", "delete it, and get it again") from None
    if len(content) > LARGEST_MEMBER:
        raise RdfiaError(f"'{source}' unpacks to more than {LARGEST_MEMBER:,} bytes")
    return content


def _read_emnist(root: Path, fetch: bool, split: str) -> Generator[Preparing, None, Decoded]:
    from torchvision.datasets import EMNIST

    folder = root / "EMNIST" / "raw"
    names = [f"emnist-{split}-{part}" for part in _EMNIST_PARTS]
    if all((folder / name).exists() for name in names):
        contents = [(folder / name).read_bytes() for name in names]
    else:
        file = Published(folder / "gzip.zip", (EMNIST.url,), EMNIST.md5)
        archive = yield from obtain(file, download=fetch, option=OPTION)
        with zipfile.ZipFile(archive) as opened:
            contents = [_unzip(archive, opened.open(f"gzip/{name}.gz")) for name in names]
    train, train_labels, test, test_labels = (parse_idx(content, folder) for content in contents)
    classes = [name for name in EMNIST.classes_split_dict[split] if name != "N/A"]
    # The labels of the letters begin with 1.
    first = 1 if split == "letters" else 0
    return Decoded(
        {"train": train.transpose(0, 2, 1)[..., None], "test": test.transpose(0, 2, 1)[..., None]},
        {
            "train": train_labels.astype(np.int64) - first,
            "test": test_labels.astype(np.int64) - first,
        },
        tuple(classes),
    )


_EMNIST_PARTS = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("test-images-idx3-ubyte", "test-labels-idx1-ubyte"),
)


def _read_cifar(root: Path, fetch: bool, name: str) -> Generator[Preparing, None, Decoded]:
    from torchvision import datasets

    kind: Any = getattr(datasets, name)
    meta = (kind.meta["filename"], kind.meta["md5"])
    wanted = [*kind.train_list, *kind.test_list, meta]
    folder = root / kind.base_folder
    if folder.is_dir():
        for file, md5 in wanted:
            refuse_changed(folder / file, md5)
        contents = [(folder / file).read_bytes() for file, _ in wanted]
    else:
        published = Published(root / kind.filename, (kind.url,), kind.tgz_md5)
        archive = yield from obtain(published, download=fetch, option=OPTION)
        contents = _members(archive, [f"{kind.base_folder}/{file}" for file, _ in wanted])
    *batches, names = (load_arrays(content, folder) for content in contents)
    parts = {"train": batches[: len(kind.train_list)], "test": batches[len(kind.train_list) :]}
    key = "labels" if "labels" in batches[0] else "fine_labels"
    return Decoded(
        {
            split: np.concatenate([batch["data"] for batch in found])
            .reshape(-1, 3, 32, 32)
            .transpose(0, 2, 3, 1)
            for split, found in parts.items()
        },
        {split: np.concatenate([batch[key] for batch in found]) for split, found in parts.items()},
        tuple(names[kind.meta["key"]]),
    )


def _members(archive: Path, names: list[str]) -> list[bytes]:
    """Files of a tar archive, read in memory."""
    try:
        with tarfile.open(archive) as opened:
            return [_member(opened, name) for name in names]
    except (tarfile.TarError, KeyError, OSError, EOFError, zlib.error) as error:
        raise RdfiaError(
            f"'{archive}' is damaged: {error}", "delete it, and get it again"
        ) from None


def _member(opened: tarfile.TarFile, name: str) -> bytes:
    entry = opened.getmember(name)
    file = opened.extractfile(entry) if entry.isfile() else None
    if file is None or entry.size > LARGEST_MEMBER:
        raise tarfile.TarError(f"{name} is no file of a size that can be")
    return file.read()


class ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays, numbers, text, lists and dictionaries; nothing that runs."""

    ALLOWED = frozenset(
        (module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy")
        for name in ("_reconstruct", "ndarray", "dtype")
    ) | {("_codecs", "encode")}

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """The object of that name, if it is one that an array is made of."""
        if (module_name, global_name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")
        module = module_name.replace("numpy.core", "numpy._core")
        return super().find_class(module, global_name)


def load_arrays(content: bytes, source: Path) -> dict[str, Any]:
    """The dictionary in a CIFAR batch.

    Raises:
        RdfiaError: it holds something else, or asks for code.
    """
    try:
        found = ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # what a damaged pickle raises has no common class
        raise RdfiaError(
            f"a file of '{source}' is no CIFAR batch: {error}", "delete it, and get it again"
        ) from None
    if not isinstance(found, dict):
        raise RdfiaError(f"a file of '{source}' is no CIFAR batch", "delete it, and get it again")
    return found


def _read_svhn(root: Path, fetch: bool, extra: bool) -> Generator[Preparing, None, Decoded]:
    from torchvision.datasets import SVHN

    images: dict[str, NDArray[np.uint8]] = {}
    labels: dict[str, NDArray[Any]] = {}
    for split in ("train", "test", *(["extra"] if extra else [])):
        url, name, md5 = SVHN.split_list[split]
        file = yield from obtain(
            Published(root / name, (str(url),), str(md5)), download=fetch, option=OPTION
        )
        images[split], labels[split] = _load_matlab(file)
    if extra:
        images["train"] = np.concatenate([images["train"], images.pop("extra")])
        labels["train"] = np.concatenate([labels["train"], labels.pop("extra")])
    return Decoded(images, labels, tuple(str(digit) for digit in range(10)))


def _load_matlab(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 32, 32, 3) and labels (N,); the digit 0 has the label 10 in the file."""
    from scipy.io import loadmat

    try:
        content: Any = loadmat(path)
        return content["X"].transpose(3, 0, 1, 2), content["y"].astype(np.int64).squeeze(1) % 10
    except Exception as error:  # what a damaged file raises has no common class
        raise RdfiaError(f"'{path}' is damaged: {error}", "delete it, and get it again") from None
