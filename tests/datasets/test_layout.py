"""A folder of images is understood as people lay it out, or refused with the way out."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdfia_cli.datasets import layout
from rdfia_cli.datasets.layout import Layout
from rdfia_cli.errors import UsageError


def plant(root: Path, *names: str) -> Path:
    """Make empty files; a name that ends in / is a folder."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()
    return root


def look(root: Path, test_share: float = 0.25, seed: int = 0) -> Layout:
    return layout.look(root, root.name, test_share, seed)


def found(split: str, of: Layout) -> dict[str, set[str]]:
    """The names of a split by class."""
    return {
        kind: {name for name, label in of.splits[split] if label == number}
        for number, kind in enumerate(of.classes)
    }


# What is understood


@pytest.mark.parametrize("test", ["test", "Test", "testing"])
@pytest.mark.parametrize("train", ["train", "TRAIN", "Training"])
def test_train_and_test_are_the_splits(tmp_path: Path, train: str, test: str):
    files = [f"{part}/{kind}/1.jpg" for part in (train, test) for kind in ("dog", "cat")]
    seen = look(plant(tmp_path, *files))
    assert seen.classes == ("cat", "dog")
    assert list(seen.splits) == ["train", "test"]
    assert found("train", seen) == {kind: {f"{train}/{kind}/1.jpg"} for kind in seen.classes}
    assert found("test", seen) == {kind: {f"{test}/{kind}/1.jpg"} for kind in seen.classes}


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_a_folder_for_validation_is_its_split(tmp_path: Path, validation: str):
    parts = ("train", validation, "test")
    seen = look(plant(tmp_path, *(f"{part}/{kind}/1.jpg" for part in parts for kind in "ab")))
    assert found("validation", seen)["b"] == {f"{validation}/b/1.jpg"}


def test_classes_and_files_stand_in_the_order_of_their_names(tmp_path: Path):
    names = [f"{part}/{kind}/{n}.jpg" for part in ("train", "test") for kind in "cab" for n in "21"]
    seen = look(plant(tmp_path, *names))
    assert seen.names == [
        f"{part}/{kind}/{n}.jpg" for part in ("train", "test") for kind in "abc" for n in "12"
    ]
    assert seen.labels == [0, 0, 1, 1, 2, 2] * 2


def test_nested_folders_belong_to_their_class(tmp_path: Path):
    seen = look(plant(tmp_path, "a/1.jpg", "a/x/2.PNG", "a/x/y/3.webp", "b/1.jpg", "b/z/2.tif"))
    assert sorted(seen.names) == ["a/1.jpg", "a/x/2.PNG", "a/x/y/3.webp", "b/1.jpg", "b/z/2.tif"]


def test_a_class_folder_may_be_a_link_but_no_link_is_followed_below_it(tmp_path: Path):
    plant(tmp_path, "else/1.jpg", "else/2.jpg", "set/b/1.jpg", "set/b/2.jpg")
    (tmp_path / "set/a").symlink_to(tmp_path / "else")
    (tmp_path / "set/b/round").symlink_to(tmp_path / "set")
    seen = look(tmp_path / "set")
    assert sorted(seen.names) == ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]
    assert seen.left_out == ("b/round",)


def test_what_is_hidden_or_no_image_by_name_is_left_out_and_said(tmp_path: Path):
    plant(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg")
    extra = ("readme.md", "a/.1.jpg", "a/3.heic", "b/deep/notes.txt", ".git/x.jpg")
    seen = look(plant(tmp_path, *extra))
    assert len(seen.names) == 4
    assert set(seen.left_out) == {"readme.md", "a/.1.jpg", "a/3.heic", "b/deep/notes.txt", ".git"}


def test_folders_beside_the_splits_are_left_out(tmp_path: Path):
    parts = ("train", "test", "unlabelled")
    seen = look(plant(tmp_path, *(f"{part}/{kind}/1.jpg" for part in parts for kind in "ab")))
    assert seen.left_out == ("unlabelled/",)


def test_whatever_has_an_images_ending_is_taken_for_one(tmp_path: Path):
    plant(tmp_path, "a/1.jpg", "a/2.jpg/", "b/1.jpg", "b/2.jpg")
    os.mkfifo(tmp_path / "a/3.jpg")
    (tmp_path / "a/4.jpg").symlink_to("nowhere")
    assert {"a/2.jpg", "a/3.jpg", "a/4.jpg"} <= set(look(tmp_path).names)


@pytest.mark.parametrize("kinds", [("bus", "train"), ("invalid", "valid"), ("exam", "test")])
def test_a_class_may_be_called_like_a_split(tmp_path: Path, kinds: tuple[str, str]):
    seen = look(plant(tmp_path, *(f"{kind}/{n}.jpg" for kind in kinds for n in range(4))))
    assert seen.classes == kinds


# The split of one tree


def tree(root: Path, **counts: int) -> Path:
    return plant(
        root, *(f"{kind}/{n:04}.jpg" for kind, count in counts.items() for n in range(count))
    )


@pytest.mark.parametrize("share", [0.01, 0.1, 0.2, 0.5, 0.99])
def test_one_tree_is_split_by_about_the_same_share_of_each_class(tmp_path: Path, share: float):
    counts = {"a": 2, "b": 10, "c": 1037}
    seen = look(tree(tmp_path, **counts), share)
    taken = Counter(seen.classes[label] for _, label in seen.splits["test"])
    for kind, count in counts.items():
        assert 1 <= taken[kind] < count
        # Four deviations of a binomial distribution, or the one that no class may lack.
        assert abs(taken[kind] - share * count) <= 4 * (count * share * (1 - share)) ** 0.5 + 1
    train, test = ({name for name, _ in seen.splits[part]} for part in ("train", "test"))
    assert train.isdisjoint(test)
    assert len(train | test) == sum(counts.values())


def test_the_split_depends_on_the_seed_and_the_names_only(tmp_path: Path):
    first = tree(tmp_path / "one", a=40, b=60)
    # The same names, in another order and elsewhere.
    second = plant(tmp_path / "two", *sorted(look(first).names, reverse=True))
    assert look(first).splits == look(second).splits
    assert look(first, seed=1).splits != look(first).splits


def test_an_image_keeps_its_split_when_others_come_or_go(tmp_path: Path):
    def parts() -> list[set[str]]:
        seen = look(tmp_path)
        return [{name for name, _ in seen.splits[part]} for part in ("train", "test")]

    tree(tmp_path, a=30, b=200)
    few = parts()
    tree(tmp_path, a=300, b=201)
    for before, after in zip(few, parts(), strict=True):
        assert before < after or before == after
    for number in range(30, 300):
        (tmp_path / f"a/{number:04}.jpg").unlink()
    (tmp_path / "b/0200.jpg").unlink()
    assert parts() == few


@settings(max_examples=30, deadline=None)
@given(st.floats(0.001, 0.999), st.integers(0, 2**70))
def test_every_share_and_seed_leaves_each_class_in_both_splits(share: float, seed: int):
    names = {"a": ["a/1", "a/2"], "b": [f"b/{n}" for n in range(9)]}
    for part in layout._divide(names, share, seed).values():
        assert all(part[kind] for kind in "ab")


# What is refused

BAD: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no folders": (("1.jpg", "2.jpg"), ("has no folders", "the images of each class")),
    "nothing": ((), ("has no folders",)),
    "one class": (("a/1.jpg", "a/2.jpg"), ("one folder, 'a'", "two classes")),
    "one level too high": (
        ("set/a/1.jpg", "set/b/1.jpg"),
        ("one folder, 'set'", "'photos/set' that you mean"),
    ),
    "an empty class": (("a/1.jpg", "a/2.jpg", "b/"), ("'photos/b' has no images", ".jpg")),
    "a class without images": (("a/1.jpg", "b/1.heic"), ("'photos/b' has no images",)),
    "no test": (
        ("train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/b/1.jpg"),
        ("'train' but no 'test'", "never taken from 'val'", "test_share"),
    ),
    "no train": (("test/a/1.jpg", "test/b/1.jpg"), ("'test' but no 'train'",)),
    "no test beside classes": (("train/a/1.jpg", "x/1.jpg"), ("'train' but no 'test'",)),
    "images right in the splits": (
        ("train/1.jpg", "test/1.jpg"),
        ("'photos/train' has no folders",),
    ),
    "a class missing in test": (
        ("train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg"),
        ("'photos/test' has no class folder 'b', unlike 'train'",),
    ),
    "a class missing in train": (
        ("train/a/1.jpg", "train/b/1.jpg", *(f"test/{kind}/1.jpg" for kind in "abc")),
        ("'photos/train' has no class folder 'c', unlike 'test'",),
    ),
    "a class missing in validation": (
        (*(f"{part}/{kind}/1.jpg" for part in ("train", "test") for kind in "ab"), "val/a/1.jpg"),
        ("'photos/val' has no class folder 'b', unlike 'train' and 'test'",),
    ),
    "two trains": (
        tuple(f"{part}/{kind}/1.jpg" for part in ("train", "Training", "test") for kind in "ab"),
        ("two folders for train", "'photos'"),
    ),
    "two validations": (
        tuple(
            f"{part}/{kind}/1.jpg" for part in ("train", "val", "valid", "test") for kind in "ab"
        ),
        ("two folders for validation: val and valid",),
    ),
    "a class of one image": (("a/1.jpg", "b/1.jpg", "b/2.jpg"), ("class 'a' has one image",)),
    "a name of two lines": (("a/1.jpg", "b\nc/1.jpg"), ("'b\\nc' cannot be printed", "rename")),
}


@pytest.mark.parametrize(("names", "words"), BAD.values(), ids=BAD)
def test_a_bad_layout_is_refused_with_the_way_out(tmp_path: Path, names, words):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UsageError) as caught:
        look(plant(tmp_path / "photos", *names))
    text = f"{caught.value.fact}\n{caught.value.remedy}"
    assert all(word in text for word in words), text
    assert caught.value.remedy
    assert "\n" not in caught.value.fact + caught.value.remedy


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("gone", "no folder 'gone'"),
        ("", "no folder ''"),
        ("file.zip", "is a file"),
        ("a\0b", "null"),
    ],
)
def test_a_path_that_is_no_folder_is_refused(tmp_path: Path, path: str, word: str):
    plant(tmp_path, "file.zip")
    with pytest.raises(UsageError, match=word):
        layout.find_root(path)


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert layout.find_root("~") == tmp_path.resolve()


def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, a=2, b=2)
    (tmp_path / "b").chmod(0)
    tmp_path.chmod(0o755)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may read anything
    try:
        with pytest.raises(UsageError, match="cannot read the folder"):
            layout.look(Path(), "photos", 0.2, 0)
    finally:
        os.seteuid(user)


# Whether it is still the same


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree whose last change counts as long ago."""
    monkeypatch.setattr(layout, "COARSEST_CLOCK", 0)
    return tree(tmp_path, a=3, b=3)


def wait_for_the_clock() -> None:
    """Let the time pass that a file system can tell apart."""
    time.sleep(0.02)


def test_an_untouched_folder_looks_the_same(old: Path):
    first = look(old)
    assert first.stamp() == look(old).stamp() != ""
    assert layout.folders_unchanged(old, first.folders)
    assert set(first.folders) == {"", "a", "b"}


@pytest.mark.parametrize(
    "change",
    [
        lambda old: (old / "a/new.jpg").touch(),
        lambda old: (old / "a/0000.jpg").unlink(),
        lambda old: (old / "a/0000.jpg").rename(old / "a/moved.jpg"),
        lambda old: (old / "c").mkdir(),
        lambda old: [p.unlink() for p in (old / "b").iterdir()] and (old / "b").rmdir(),
    ],
    ids=["added", "removed", "renamed", "new folder", "folder removed"],
)
def test_what_comes_or_goes_shows_in_the_folders(old: Path, change):
    before = look(old).folders
    wait_for_the_clock()
    change(old)
    assert not layout.folders_unchanged(old, before)


def write_with_the_old_time(path: Path, content: bytes) -> None:
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda old: (old / "a/0000.jpg").write_bytes(b"longer"),
        lambda old: write_with_the_old_time(old / "a/0000.jpg", b"x"),
        lambda old: os.utime(old / "a/0000.jpg"),
    ],
    ids=["longer", "the same time", "touched"],
)
def test_what_is_written_in_its_place_shows_in_the_stamp(old: Path, change):
    (old / "a/0000.jpg").write_bytes(b"o")
    before = look(old)
    stamp = before.stamp()
    wait_for_the_clock()
    change(old)
    assert layout.folders_unchanged(old, before.folders)
    assert before.stamp() != stamp


def test_files_that_changed_places_show_in_the_stamp(old: Path):
    for name, content in (("a/0000.jpg", b"1"), ("b/0000.jpg", b"2")):
        (old / name).write_bytes(content)
        os.utime(old / name, ns=(10**18, 10**18))
    before = look(old).stamp()
    wait_for_the_clock()
    (old / "a/0000.jpg").rename(old / "aside")
    (old / "b/0000.jpg").rename(old / "a/0000.jpg")
    (old / "aside").rename(old / "b/0000.jpg")
    assert look(old).stamp() != before


def test_a_file_that_changed_a_moment_ago_is_not_taken_for_settled(tmp_path: Path):
    assert look(tree(tmp_path, a=2, b=2)).stamp() == ""
