"""Stores are found by what decides their content, and only whole ones are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rdfia_cli import cache
from rdfia_cli.cache import Manifest
from rdfia_cli.errors import RdfiaError

MANIFEST = Manifest(
    name="pictures",
    key={"path": "/somewhere", "size": 2},
    shape=(2, 2, 3),
    splits={"train": 3, "test": 1},
    classes=("cat", "dög"),
    skipped=(("a.jpg", "truncated"),),
    source="/somewhere",
    evidence={"folders": {"a": 1}},
    notes=("one line",),
)


def write(root: Path, manifest: Manifest = MANIFEST) -> Path:
    """A whole store, written by hand."""
    folder = cache.store_folder(root, manifest.name, manifest.key)
    folder.mkdir(parents=True)
    (folder / "images.uint8").write_bytes(bytes(4 * 2 * 2 * 3))
    (folder / "labels.int64").write_bytes(bytes(4 * 8))
    (folder / "manifest.json").write_bytes(manifest.encode())
    return folder


# Where


def test_what_is_kept_beside_a_store_comes_back_whole_or_not_at_all(tmp_path: Path):
    memory = cache.StoreMemory(tmp_path, "one")
    assert memory.recall("a") is None
    memory.keep("a", b"line\nline\n")
    memory.keep("b", b"")
    assert (memory.recall("a"), memory.recall("b")) == (b"line\nline\n", b"")
    assert cache.StoreMemory(tmp_path, "two").recall("a") is None
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    assert memory.recall("a") is None


def test_a_cache_that_cannot_be_written_keeps_nothing_and_fails_nobody(tmp_path: Path):
    memory = cache.StoreMemory(tmp_path / "gone", "one")
    memory.keep("a", b"1")
    assert memory.recall("a") is None


def test_the_fingerprint_tells_the_content_and_not_the_place():
    manifest = replace(MANIFEST, evidence={"content": "1", "folders": {}})
    moved = replace(manifest, key={**manifest.key, "path": "/x"}, source="/x", notes=())
    assert moved.fingerprint == manifest.fingerprint
    others = [
        replace(manifest, key={**manifest.key, "size": 3}),
        replace(manifest, shape=(2, 2, 1)),
        replace(manifest, splits={"train": 2, "test": 2}),
        replace(manifest, classes=("dog", "cat")),
        replace(manifest, evidence={"content": "2", "folders": {}}),
    ]
    assert len({manifest.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder() == Path("/home/someone/.cache/rdfia")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache.folder() == Path("/cache/rdfia")
    monkeypatch.setenv("RDFIA_CACHE", "/elsewhere")
    assert cache.folder() == Path("/elsewhere")


def test_a_store_has_a_folder_of_its_own_for_each_name_and_key():
    keys = [{}, {"size": 1}, {"size": 2}, {"size": "1"}, {"path": "1"}]
    folders = {cache.store_folder(Path(), name, key) for name in ("a", "b") for key in keys}
    assert len(folders) == 10


def test_the_order_of_the_key_says_nothing():
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert cache.store_folder(Path(), "x", one) == cache.store_folder(Path(), "x", other)


@pytest.mark.parametrize("name", ["timm/resnet18", "../up", "a b", "ü"])
def test_no_name_leads_out_of_the_cache(name: str):
    assert cache.store_folder(Path("root"), name, {}).parent == Path("root/stores")


# What


def test_a_store_is_read_as_it_was_written(tmp_path: Path):
    folder = write(tmp_path)
    assert cache.read_store(folder) == cache.Store(folder, MANIFEST)


def test_a_store_knows_what_it_takes(tmp_path: Path):
    store = cache.read_store(write(tmp_path))
    assert store is not None
    assert (MANIFEST.examples, MANIFEST.image_bytes) == (4, 48)
    assert store.bytes == 48 + 32 + len(MANIFEST.encode())


def damage_manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "manifest.json").read_bytes())
        change(content)
        (folder / "manifest.json").write_text(json.dumps(content))

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "no images": lambda folder: (folder / "images.uint8").unlink(),
    "no labels": lambda folder: (folder / "labels.int64").unlink(),
    "images cut": lambda folder: (folder / "images.uint8").write_bytes(bytes(47)),
    "labels too many": lambda folder: (folder / "labels.int64").write_bytes(bytes(40)),
    "manifest cut": lambda folder: (folder / "manifest.json").write_bytes(b'{"schema": '),
    "no JSON": lambda folder: (folder / "manifest.json").write_bytes(b"\xff"),
    "no object": lambda folder: (folder / "manifest.json").write_text("[1]"),
    "another schema": damage_manifest(lambda content: content.update(schema="rdfia.store/0")),
    "a key too many": damage_manifest(lambda content: content.update(more=1)),
    "a key too few": damage_manifest(lambda content: content.pop("shape")),
    "another shape": damage_manifest(lambda content: content.update(shape=[2, 2])),
    "other splits": damage_manifest(lambda content: content.update(splits={"train": "3"})),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_what_is_no_whole_store_is_none(tmp_path: Path, damage: Callable[[Path], object]):
    folder = write(tmp_path)
    damage(folder)
    assert cache.read_store(folder) is None
    assert list(cache.stores(tmp_path)) == []


def test_all_whole_stores_are_listed_by_name(tmp_path: Path):
    assert list(cache.stores(tmp_path)) == []
    folders = [write(tmp_path, replace(MANIFEST, name=name)) for name in ("b", "a", "c")]
    folders[2].rename(folders[2].with_name(".c.1234.partial"))
    (tmp_path / "stores/stray").touch()
    assert [store.manifest.name for store in cache.stores(tmp_path)] == ["a", "b"]


def test_a_manifest_is_renewed_beside_the_same_images(tmp_path: Path):
    store = cache.read_store(write(tmp_path))
    assert store is not None
    renewed = cache.renew_manifest(store, replace(MANIFEST, notes=("another",)))
    assert renewed == cache.read_store(store.folder) != store


# Away


def test_a_removed_store_leaves_nothing(tmp_path: Path):
    folder = write(tmp_path)
    cache.remove_store(folder)
    assert list((tmp_path / "stores").iterdir()) == []


def test_a_store_may_be_gone_already(tmp_path: Path):
    cache.remove_store(tmp_path / "stores/gone")


def test_a_store_that_was_open_when_it_was_removed_can_still_be_read(tmp_path: Path):
    folder = write(tmp_path)
    with (folder / "images.uint8").open("rb") as file:
        cache.remove_store(folder)
        assert file.read() == bytes(48)


def test_a_disk_that_refuses_to_remove_is_an_error_in_words(tmp_path: Path, monkeypatch):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    folder = write(tmp_path)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(RdfiaError, match=r"cannot remove .*Permission denied"):
        cache.remove_store(folder)
    assert cache.read_store(folder) is not None
