"""How a folder of images is laid out, and whether all is still as it was.

Either `train/` and `test/`, and perhaps `val/`, each with a folder a class, or one folder a class,
from which the test split is taken. Nested folders belong to their class.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdfia_cli.datasets import decode
from rdfia_cli.errors import UsageError
from rdfia_cli.spec import value_text

ROLES: Mapping[str, frozenset[str]] = {
    "train": frozenset(("train", "training")),
    "validation": frozenset(("val", "valid", "validation")),
    "test": frozenset(("test", "testing")),
}
"""The folders of the splits, in any case of letters."""
COARSEST_CLOCK = 2 * 10**9
"""Nanoseconds between two times that FAT can tell apart, the coarsest file system in use."""
SHOWN = 3
"""Names of a long list that are shown."""

Tree = Mapping[str, Sequence[str]]
"""The files of each class, in order, relative to the root."""


@dataclass(frozen=True)
class Layout:
    """What lies in a folder of images.

    Attributes:
        root: the folder; all names are relative to it.
        shown: the folder as the user wrote it.
        classes: the names of the classes, sorted.
        splits: the images of each split and their labels, sorted by class and name.
        folders: when each folder changed last, in nanoseconds.
        left_out: what is no image by its name.
    """

    root: Path
    shown: str
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[tuple[str, int]]]
    folders: Mapping[str, int]
    left_out: tuple[str, ...]

    @property
    def names(self) -> Sequence[str]:
        """All images in the order of the splits."""
        return [name for files in self.splits.values() for name, _ in files]

    @property
    def labels(self) -> Sequence[int]:
        """The labels of all images, in the same order."""
        return [label for files in self.splits.values() for _, label in files]

    @property
    def paths(self) -> Sequence[str]:
        """Where all images are, in the same order."""
        return [f"{self.root}/{name}" for name in self.names]

    def spec(self, setting: str) -> str:
        """The dataset as one writes it, with a setting: it serves every command."""
        return f"folder:path={value_text(self.shown)},{setting}"

    def stamp(self) -> str:
        """What changes when any of the files does; empty where that cannot be told yet.

        A file that changed a moment ago may change again without another time of change.
        """
        digest, newest = hashlib.sha256(), 0
        for name, path in zip(self.names, self.paths, strict=True):
            text, changed = _stamp(path)
            digest.update(os.fsencode(f"{name}\0{text}\n"))
            newest = max(newest, changed)
        return "" if time.time_ns() - newest < COARSEST_CLOCK else digest.hexdigest()

    def content(self, digests: Sequence[str]) -> str:
        """What tells all files by their names and the digests of their bytes."""
        text = "".join(
            f"{name}\0{found}\n" for name, found in zip(self.names, digests, strict=True)
        )
        return hashlib.sha256(os.fsencode(text)).hexdigest()


def _stamp(path: str) -> tuple[str, int]:
    try:
        found = decode.look_at(path)
    except OSError:
        return "", 0
    # The time of change also tells files of one size and time that changed places.
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}", found.st_ctime_ns


def find_root(path: str) -> Path:
    """The folder that a user means.

    Raises:
        UsageError: there is none.
    """
    try:
        root = Path(path).expanduser().resolve()
        is_there, is_folder = bool(path) and root.exists(), root.is_dir()
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"data.path = '{readable(path)}' cannot be used: {error}") from None
    if not is_there:
        raise UsageError(
            f"there is no folder '{readable(path)}'",
            f"path is looked for from '{Path.cwd()}'",
        )
    if not is_folder:
        raise UsageError(
            f"'{readable(path)}' is a file, not a folder of images",
            "unpack an archive first, and give the folder that has the class folders",
        )
    return root


def readable(name: str) -> str:
    """A name as it can be printed on one line."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def some(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def folders_unchanged(root: Path, folders: Mapping[str, int]) -> bool:
    """Whether no name was added, removed or changed, by the time when each folder changed last."""
    try:
        return all(
            decode.look_at(f"{root}/{name}").st_mtime_ns == changed
            for name, changed in folders.items()
        )
    except OSError:
        return False


def look(root: Path, shown: str, test_share: float, seed: int) -> Layout:
    """List the images of a folder.

    Args:
        root: the folder.
        shown: its name for the user.
        test_share: the share of each class that is for the test, where there is one tree.
        seed: which ones that are.

    Raises:
        UsageError: the folder is not laid out in one of the two ways.
    """
    walk = _Walk(root, shown)
    parts = _find_parts(walk)
    found = {role: walk.tree(folder) for role, folder in parts.items()} or {"train": walk.tree("")}
    _refuse_few(walk, found["train"], parts.get("train", ""))
    _refuse_unlike(walk, found, parts)
    trees = found if parts else _divide(found["train"], test_share, seed)
    classes = tuple(sorted(trees["train"]))
    splits = {
        role: [(name, label) for label, kind in enumerate(classes) for name in tree[kind]]
        for role, tree in trees.items()
    }
    return Layout(root, shown, classes, splits, walk.folders, tuple(sorted(walk.left_out)))


class _Walk:
    """Looks into folders, and remembers when they changed and what is no image.

    Attributes:
        folders: when each folder that was looked into changed last.
        left_out: what is hidden, or has not the ending of an image.
    """

    def __init__(self, root: Path, shown: str) -> None:
        self.root, self.shown = root, shown
        self.folders: dict[str, int] = {}
        self.left_out: set[str] = set()

    def entries(self, folder: str) -> Sequence[os.DirEntry[str]]:
        """What lies in a folder and is not hidden."""
        path = f"{self.root}/{folder}"
        try:
            # First the time: what comes while we look is then noticed later.
            self.folders.setdefault(folder, decode.look_at(path).st_mtime_ns)
            with os.scandir(path) as found:
                entries = list(found)
        except OSError as error:
            raise UsageError(
                f"cannot read the folder '{readable(path)}': {error.strerror}",
                "you need the right to read it and to enter it",
            ) from None
        self.left_out |= {_join(folder, e.name) for e in entries if e.name.startswith(".")}
        return [entry for entry in entries if not entry.name.startswith(".")]

    def subfolders(self, folder: str) -> Sequence[str]:
        """The folders in a folder, those behind a link included; anything else is left out."""
        found = {entry.name: _is_folder(entry) for entry in self.entries(folder)}
        self.left_out |= {_join(folder, name) for name, is_dir in found.items() if not is_dir}
        return sorted(name for name, is_dir in found.items() if is_dir)

    def has_folders(self, folder: str) -> bool:
        """Whether a folder lies in a folder."""
        return any(_is_folder(entry) for entry in self.entries(folder))

    def tree(self, folder: str) -> Tree:
        """The class folders of a folder, and the files of each.

        Raises:
            UsageError: one is empty.
        """
        tree: dict[str, Sequence[str]] = {}
        for kind in self.subfolders(folder):
            inside = _join(folder, kind)
            tree[kind] = sorted(self._images(inside))
            if not tree[kind]:
                raise UsageError(
                    f"the class folder '{readable(_join(self.shown, inside))}' has no images",
                    f"remove it, or put files there that end in {_list(sorted(decode.ENDINGS))}",
                )
        return tree

    def _images(self, folder: str) -> Iterator[str]:
        """The images below a folder by their names, whatever they turn out to be."""
        waiting = [folder]
        while waiting:
            inside = waiting.pop()
            for entry in self.entries(inside):
                name = _join(inside, entry.name)
                if os.path.splitext(entry.name)[1].lower() in decode.ENDINGS:  # noqa: PTH122
                    yield name
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append(name)
                else:
                    self.left_out.add(name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for one
        return False


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _find_parts(walk: _Walk) -> Mapping[str, str]:
    """The folder of each split, or none where all folders are classes.

    Raises:
        UsageError: train has no test, or a split has two folders.
    """
    names = walk.subfolders("")
    found = {role: [n for n in names if n.lower() in known] for role, known in ROLES.items()}
    others = [name for name in names if not any(name in folders for folders in found.values())]
    if not (found["train"] and found["test"]):
        _refuse_half(walk, found, others)
        return {}
    for role, folders in found.items():
        if len(folders) > 1:
            raise UsageError(
                f"'{walk.shown}' has two folders for {role}: {' and '.join(folders)}",
                "keep one of them",
            )
    walk.left_out |= {f"{other}/" for other in others}
    return {role: folders[0] for role, folders in found.items() if folders}


def _refuse_half(walk: _Walk, found: Mapping[str, Sequence[str]], others: Sequence[str]) -> None:
    """Refuse a train without a test, or the reverse, unless it is a class of that name."""
    given = [*found["train"], *found["test"]]
    if not given or (others and not walk.has_folders(given[0])):
        return
    missing = "test" if found["train"] else "train"
    taken = (
        f"; the test split is never taken from '{found['validation'][0]}'"
        if found["validation"] and missing == "test"
        else ""
    )
    raise UsageError(
        f"'{walk.shown}' has the folder '{given[0]}' but no '{missing}'{taken}",
        f"add '{missing}' with the same class folders, or put all class folders side by side, "
        "so that test_share is taken for the test",
    )


def _refuse_few(walk: _Walk, tree: Tree, folder: str) -> None:
    """Refuse fewer than two classes, and names that would break a line."""
    for kind in tree:
        if not kind.isprintable():
            raise UsageError(f"class '{readable(kind)}' cannot be printed", "rename its folder")
    if len(tree) > 1:
        return
    where = _join(walk.shown, folder)
    found = "".join(f"one folder, '{kind}'" for kind in tree) or "no folders"
    nested = [_join(where, kind) for kind in tree if walk.has_folders(_join(folder, kind))]
    raise UsageError(
        f"'{where}' has {found}, and needs one for each of two classes or more",
        f"is it '{nested[0]}' that you mean?"
        if nested
        else "put the images of each class into a folder with its name",
    )


def _refuse_unlike(walk: _Walk, trees: Mapping[str, Tree], parts: Mapping[str, str]) -> None:
    """Refuse splits with different classes."""
    every = {kind for tree in trees.values() for kind in tree}
    for role, tree in trees.items():
        missing = sorted(every - set(tree))
        if missing:
            named = some([f"'{kind}'" for kind in missing])
            owners = " and ".join(f"'{parts[r]}'" for r, t in trees.items() if missing[0] in t)
            raise UsageError(
                f"'{_join(walk.shown, parts[role])}' has no class folder {named}, unlike {owners}",
                "every split needs the same class folders",
            )


def _divide(tree: Tree, test_share: float, seed: int) -> Mapping[str, Tree]:
    """Take the test split from one tree, about the same share of each class.

    A file's name and the seed alone decide where it goes, so that it stays there when others come:
    no image that was trained on is ever in the test. Only where a class would be missing in a
    split, the file that is nearest to it goes there.

    Raises:
        UsageError: a class has one image.
    """
    train: dict[str, Sequence[str]] = {}
    test: dict[str, Sequence[str]] = {}
    for kind, names in tree.items():
        if len(names) < 2:
            raise UsageError(
                f"class '{kind}' has one image, which cannot be in train and in test",
                "add another, or remove the class",
            )
        draws = {name: _draw(name, seed) for name in names}
        lowest, *_, highest = sorted(draws.values())
        limit = min(max(test_share, lowest), math.nextafter(highest, 0))
        test[kind] = sorted(name for name in names if draws[name] <= limit)
        train[kind] = sorted(name for name in names if draws[name] > limit)
    return {"train": train, "test": test}


def _draw(name: str, seed: int) -> float:
    """A number between 0 and 1 that looks drawn uniformly."""
    digest = hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest()
    return int.from_bytes(digest) / 2**256
