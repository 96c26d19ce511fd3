"""The published datasets that torchvision knows: their addresses and checksums are torchvision's.

Files lie as torchvision lays them out, so that a folder made by either serves both. Nothing is
extracted: archives are read in memory, and CIFAR's pickles by an unpickler that knows arrays only.
What was decoded goes to the store; later starts need neither the files nor torchvision.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import pickle
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from rdfia_cli import cache
from rdfia_cli.datasets import store
from rdfia_cli.datasets.download import Published, find_root, obtain, refuse_changed
from rdfia_cli.errors import RdfiaError
from rdfia_cli.spec import Preparing, Splits

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

VERSION = 3
"""Of the way from the files to the store; another number decodes anew."""
OPTION = "path"
INSIDE: Mapping[str, str] = {
    "mnist": "MNIST/raw",
    "fashion_mnist": "FashionMNIST/raw",
    "emnist": "EMNIST/raw",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "svhn": "",
}
"""Where torchvision lays the files of each, from the root of its download."""
IDX_BYTES = b"\0\0\x08"
IMAGE_AXES, LABEL_AXES = 3, 1
CIFAR_VALUES = 3 * 32 * 32
AGAIN = "delete it, and get it again"
LARGEST_MEMBER = 2**30
"""Bytes that one file of an archive may unpack to: EMNIST's largest has 547 MB."""


@dataclass(frozen=True)
class Decoded:
    """A dataset in memory.

    Attributes:
        images: for each split (N, H, W, C) uint8.
        labels: for each split (N,).
        classes: the name of each class, in the order of the labels.
        stamps: size and time of change of each file that was read, by its path from the root.
    """

    images: Mapping[str, NDArray[np.uint8]]
    labels: Mapping[str, NDArray[Any]]
    classes: tuple[str, ...]
    stamps: Mapping[str, list[int]]


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
    """Open the store of a dataset, reading the dataset into it first where there is none.

    What was downloaded is never looked at again; a user's own files are, and read anew where they
    changed: no checksum is published of an unpacked MNIST.
    """
    own = path is not None
    source = find_root(path, INSIDE[name]) if own else root / cache.DOWNLOADS
    key = {"version": VERSION, **options, "path": str(source) if own else None}
    place = cache.store_folder(root, name, key)
    before = cache.read_store(place)
    if not _is_current(before, source):
        with store.preparing(root, place):
            if not _is_current(cache.read_store(place), source):
                decoded = yield from read(source, not own)
                yield Preparing(f"storing {name}", 0, None, "images")
                _write(root, name, key, source, decoded, stamped=own)
    found = cache.read_store(place)
    assert found is not None
    changed = before is not None and before != found
    text = f"the files in '{source}' changed since they were prepared, and were read anew"
    return store.open_store(found, warnings=(text,) if changed else ())


def _is_current(found: cache.Store | None, source: Path) -> bool:
    """Whether there is a store, and the user's own files look as they did when it was made."""
    if found is None:
        return False
    stamps: Mapping[str, list[int]] = found.manifest.evidence["files"]
    return all(_stamp(source / name) == stamp for name, stamp in stamps.items())


def _stamp(path: Path) -> list[int]:
    """Size and time of change of a file; nothing where it is gone."""
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _stamps(root: Path, files: Iterable[Path]) -> dict[str, list[int]]:
    """To be taken before the files are read, so that a change meanwhile is seen later."""
    return {str(file.relative_to(root)): _stamp(file) for file in files}


def _write(
    root: Path, name: str, key: Mapping[str, Any], source: Path, decoded: Decoded, *, stamped: bool
) -> None:
    images, labels = decoded.images, decoded.labels
    for split in images:
        _refuse_mismatch(split, decoded, source)
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
        evidence={"files": dict(decoded.stamps) if stamped else {}},
    )
    with store.drafting(root, manifest) as draft:
        start = 0
        for split, found in images.items():
            draft.images[start : start + len(found)] = found
            draft.labels[start : start + len(found)] = labels[split]
            start += len(found)
        evidence = {**manifest.evidence, "content": _digest(draft)}
        draft.manifest = replace(manifest, evidence=evidence)


def _digest(draft: store.Draft) -> str:
    """What tells these images and labels from others."""
    digest = hashlib.sha256(draft.images.reshape(-1).data)
    digest.update(draft.labels.astype("<i8").tobytes())
    return digest.hexdigest()


def _refuse_mismatch(split: str, decoded: Decoded, source: Path) -> None:
    images, labels, classes = decoded.images[split], decoded.labels[split], len(decoded.classes)
    expected = decoded.images["train"].shape[1:]
    flaw = ""
    if len(images) != len(labels) or not len(labels):
        flaw = f"{len(images)} images and {len(labels)} labels"
    elif labels.min() < 0 or labels.max() >= classes:
        flaw = f"labels outside 0 to {classes - 1}"
    elif images.shape[1:] != expected:
        sizes = ("x".join(map(str, shape[:2])) for shape in (images.shape[1:], expected))
        flaw = "images of {}, and train of {}".format(*sizes)
    if flaw:
        raise RdfiaError(
            f"the {split} split in '{source}' has {flaw}", "delete its files, and get them again"
        )


def _read_mnist(root: Path, fetch: bool, name: str) -> Generator[Preparing, None, Decoded]:
    from torchvision import datasets

    kind: Any = getattr(datasets, name)
    folder = root / name / "raw"
    packed = {
        folder / Path(file).stem: Published(
            folder / file,
            tuple(f"{mirror}{file}" for mirror in kind.mirrors),
            md5,
            unpacked=Path(file).stem,
        )
        for file, md5 in kind.resources
    }
    wanted = [file for plain, file in packed.items() if not plain.exists()]
    yield from obtain(wanted, download=fetch, option=OPTION)
    files = [plain if plain.exists() else file.path for plain, file in packed.items()]
    stamps = _stamps(root, files)
    return _pair_up(files, [_unpacked(file) for file in files], tuple(kind.classes), stamps)


def _pair_up(
    files: Sequence[Path],
    contents: Sequence[bytes],
    classes: tuple[str, ...],
    stamps: Mapping[str, list[int]],
) -> Decoded:
    """A dataset from images and labels of train, then of test."""
    axes = (IMAGE_AXES, LABEL_AXES) * 2
    train, train_labels, test, test_labels = map(parse_idx, contents, files, axes)
    return Decoded(
        {"train": train[..., None], "test": test[..., None]},
        {"train": train_labels, "test": test_labels},
        classes,
        stamps,
    )


def parse_idx(content: bytes, source: Path, axes: int) -> NDArray[np.uint8]:
    """The array in a file of MNIST's format: (N, H, W) or (N,) uint8.

    Raises:
        RdfiaError: it is of another format, or too short or long.
    """
    start = 4 + 4 * axes
    if content[:4] != IDX_BYTES + bytes([axes]) or len(content) < start:
        kind = "images" if axes == IMAGE_AXES else "labels"
        raise RdfiaError(f"'{source}' is damaged: it does not begin as {kind} do", AGAIN)
    shape: list[int] = np.frombuffer(content, ">u4", axes, 4).tolist()
    expected, found = math.prod(shape), len(content) - start
    if expected != found:
        raise RdfiaError(f"'{source}' is damaged: {found:,} bytes instead of {expected:,}", AGAIN)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unpacked(file: Path) -> bytes:
    """The content of a file, or of what is packed in it."""
    if file.suffix == ".gz":
        return _unzip(file, file.open("rb"))
    try:
        return file.read_bytes()
    except OSError as error:
        raise RdfiaError(f"cannot read '{file}': {error.strerror}") from None


def _unzip(source: Path, stream: IO[bytes]) -> bytes:
    """The content of a gzip stream, bounded."""
    try:
        with stream, gzip.open(stream) as file:
            content = file.read(LARGEST_MEMBER + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise RdfiaError(f"'{source}' is damaged: {error}", AGAIN) from None
    if len(content) > LARGEST_MEMBER:
        raise RdfiaError(f"'{source}' unpacks to more than {LARGEST_MEMBER:,} bytes")
    return content


def _read_emnist(root: Path, fetch: bool, split: str) -> Generator[Preparing, None, Decoded]:
    from torchvision.datasets import EMNIST

    folder = root / "EMNIST" / "raw"
    files = [folder / f"emnist-{split}-{part}" for part in _EMNIST_PARTS]
    if all(file.exists() for file in files):
        stamps = _stamps(root, files)
        contents = [_unpacked(file) for file in files]
    else:
        published = Published(folder / "gzip.zip", (EMNIST.url,), EMNIST.md5, files[0].name)
        (archive,) = yield from obtain([published], download=fetch, option=OPTION)
        stamps = _stamps(root, [archive])
        contents = _zipped(archive, [f"gzip/{file.name}.gz" for file in files])
        files = [archive / "gzip" / f"{file.name}.gz" for file in files]
    classes = tuple(name for name in EMNIST.classes_split_dict[split] if name != "N/A")
    found = _pair_up(files, contents, classes, stamps)
    # The labels of the letters begin with 1.
    first = 1 if split == "letters" else 0
    return replace(
        found,
        images={name: images.swapaxes(1, 2) for name, images in found.images.items()},
        labels={name: labels.astype(np.int64) - first for name, labels in found.labels.items()},
    )


def _zipped(archive: Path, names: list[str]) -> list[bytes]:
    """What the gzip files in a zip archive hold, read in memory."""
    try:
        with zipfile.ZipFile(archive) as opened:
            return [_unzip(archive / name, opened.open(name)) for name in names]
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise RdfiaError(f"'{archive}' is damaged: {error}", AGAIN) from None


_EMNIST_PARTS = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("test-images-idx3-ubyte", "test-labels-idx1-ubyte"),
)


def _read_cifar(root: Path, fetch: bool, name: str) -> Generator[Preparing, None, Decoded]:
    from torchvision import datasets

    kind: Any = getattr(datasets, name)
    meta = (kind.meta["filename"], kind.meta["md5"])
    wanted = [*kind.train_list, *kind.test_list, meta]
    files = [root / kind.base_folder / file for file, _ in wanted]
    if files[0].parent.is_dir():
        stamps = _stamps(root, files)
        for file, (_, md5) in zip(files, wanted, strict=True):
            refuse_changed(file, md5)
        contents = [_unpacked(file) for file in files]
    else:
        published = Published(
            root / kind.filename, (kind.url,), kind.tgz_md5, unpacked=kind.base_folder
        )
        (archive,) = yield from obtain([published], download=fetch, option=OPTION)
        stamps = _stamps(root, [archive])
        contents = _members(archive, [f"{kind.base_folder}/{file}" for file, _ in wanted])
        files = [archive / file for file, _ in wanted]
    *batches, names = map(load_arrays, contents, files)
    examples = [_examples(batch, file) for batch, file in zip(batches, files, strict=False)]
    ends = {"train": examples[: len(kind.train_list)], "test": examples[len(kind.train_list) :]}
    return Decoded(
        {split: np.concatenate([images for images, _ in found]) for split, found in ends.items()},
        {split: np.concatenate([labels for _, labels in found]) for split, found in ends.items()},
        tuple(names[kind.meta["key"]]),
        stamps,
    )


def _examples(batch: Mapping[str, Any], file: Path) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Images (N, 32, 32, 3) and labels (N,) of a batch."""
    data = np.asarray(batch.get("data"))
    labels = np.asarray(batch.get("labels", batch.get("fine_labels")))
    fits = data.dtype == np.uint8 and data.shape == (labels.size, CIFAR_VALUES)
    if not fits or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise RdfiaError(f"'{file}' is no CIFAR batch: its arrays do not fit", AGAIN)
    return data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _members(archive: Path, names: list[str]) -> list[bytes]:
    """Files of a tar archive, read in memory."""
    try:
        with tarfile.open(archive) as opened:
            return [_member(opened, name) for name in names]
    except (tarfile.TarError, KeyError, OSError, EOFError, zlib.error) as error:
        raise RdfiaError(f"'{archive}' is damaged: {error}", AGAIN) from None


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
    except RdfiaError:  # a request to stop
        raise
    except Exception as error:  # what a damaged pickle raises has no common class
        raise RdfiaError(f"'{source}' is no CIFAR batch: {error}", AGAIN) from None
    if not isinstance(found, dict):
        raise RdfiaError(f"'{source}' is no CIFAR batch", AGAIN)
    return found


def _read_svhn(root: Path, fetch: bool, extra: bool) -> Generator[Preparing, None, Decoded]:
    from torchvision.datasets import SVHN

    images: dict[str, NDArray[np.uint8]] = {}
    labels: dict[str, NDArray[Any]] = {}
    splits = ("train", "test", *(["extra"] if extra else []))
    listed = [(str(value) for value in SVHN.split_list[split]) for split in splits]
    published = [Published(root / name, (url,), md5) for url, name, md5 in listed]
    files = yield from obtain(published, download=fetch, option=OPTION)
    stamps = _stamps(root, files)
    for split, file in zip(splits, files, strict=True):
        images[split], labels[split] = _load_matlab(file)
    if extra:
        images["train"] = np.concatenate([images["train"], images.pop("extra")])
        labels["train"] = np.concatenate([labels["train"], labels.pop("extra")])
    return Decoded(images, labels, tuple(str(digit) for digit in range(10)), stamps)


def _load_matlab(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 32, 32, 3) and labels (N,); the digit 0 has the label 10 in the file."""
    from scipy.io import loadmat

    try:
        content: Any = loadmat(path)
        return content["X"].transpose(3, 0, 1, 2), content["y"].astype(np.int64).squeeze(1) % 10
    except RdfiaError:  # a request to stop
        raise
    except Exception as error:  # what a damaged file raises has no common class
        raise RdfiaError(f"'{path}' is damaged: {error}", AGAIN) from None
