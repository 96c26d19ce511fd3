"""A user's own images, from a folder of class folders.

They are decoded once into a store. A start only looks whether the folders changed; whether a file
did is found out beside the building of the model.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rdfia_cli import cache
from rdfia_cli.datasets import decode, layout, store
from rdfia_cli.datasets.fill import fill, find_model
from rdfia_cli.errors import ChangedError, RdfiaError, count
from rdfia_cli.spec import Preparing

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from annotated_types import Gt, Lt

    from rdfia_cli.datasets.layout import Layout
    from rdfia_cli.spec import Count, Size, Splits


def folder(
    root: Path,
    *,
    path: str,
    size: Count | None = None,
    resize: Literal["shorter", "squash", "pad"] = "shorter",
    mode: Literal["colour", "grey"] = "colour",
    test_share: Annotated[float, Gt(0), Lt(1)] = 0.2,
    split_seed: Size = 0,
    on_error: Literal["refuse", "skip"] = "refuse",
) -> Generator[Preparing, None, Splits]:
    """Your own images: a folder for each class, under train/ and test/ or side by side.

    JPEG, PNG, GIF, BMP, TIFF, WebP and PPM files, upright as their EXIF says, 16 bits a channel
    brought to 8, transparent parts shown on white, animations by their first frame. A val/ beside
    train/ is the validation split. They are decoded once, into the cache, and anew where they
    change.

    Args:
        root: the cache.
        path: the folder that has train/ and test/, or the class folders.
        size: height and width to bring all images to; none where they have one size already.
        resize: shorter brings the shorter side to the size and cuts out the centre, squash bends
            the image to the size, pad brings the longer side to it and surrounds it by black.
        mode: three channels or one.
        test_share: about which share of each class is for the test, where there is no train/.
        split_seed: which ones these are.
        on_error: what becomes of images that cannot be read.

    Raises:
        UsageError: the folder has another layout, or images that cannot be used.
    """
    source = _Source(
        root=root,
        folder=layout.find_root(path),
        shown=layout.readable(str(Path(path))),
        rule=decode.Rule(size, resize, mode),
        test_share=test_share,
        split_seed=split_seed,
        on_error=on_error,
    )
    found = cache.read_store(source.place)
    if found is None or not source.looks_unchanged(found.manifest):
        found = yield from _prepare(source)
    return store.open_store(
        found,
        warnings=_warnings(source, found.manifest),
        verify=functools.partial(_verify, source, found),
    )


@dataclass(frozen=True)
class _Source:
    """What the user asked for.

    Attributes:
        root: the cache.
        folder: where the images are.
        shown: the same as the user wrote it.
        rule: how images come to pixels.
        test_share, split_seed: how one tree is divided.
        on_error: what becomes of images that cannot be read.
    """

    root: Path
    folder: Path
    shown: str
    rule: decode.Rule
    test_share: float
    split_seed: int
    on_error: str

    @property
    def key(self) -> Mapping[str, Any]:
        """What decides the content of the store."""
        return {
            "version": decode.VERSION,
            "path": str(self.folder),
            **asdict(self.rule),
            "test_share": self.test_share,
            "split_seed": self.split_seed,
            "on_error": self.on_error,
        }

    @property
    def place(self) -> Path:
        """Where the store is, or will be."""
        return cache.store_folder(self.root, "folder", self.key)

    def look(self) -> Layout:
        """List the images."""
        return layout.look(self.folder, self.shown, self.test_share, self.split_seed)

    def looks_unchanged(self, manifest: cache.Manifest) -> bool:
        """Whether nothing came or went since a store was prepared: one look at each folder."""
        return layout.folders_unchanged(self.folder, manifest.evidence["folders"])


def _prepare(source: _Source) -> Generator[Preparing, None, cache.Store]:
    """The store of the images as they are now, decoded unless they are those of the present one."""
    yield Preparing(f"looking at the images in '{source.shown}'", 0, None, "images")
    with store.preparing(source.root, source.place):
        present = cache.read_store(source.place)
        if present is not None and source.looks_unchanged(present.manifest):
            # Another process was first.
            return present
        found = source.look()
        stamp = found.stamp()
        if present is not None and stamp and stamp == present.manifest.evidence["files"]:
            # Something came or went, but no image.
            return cache.renew_manifest(present, _describe(present.manifest, found, stamp))
        yield from _decode(source, found, stamp)
        prepared = cache.read_store(source.place)
    assert prepared is not None
    return prepared


def _decode(source: _Source, found: Layout, stamp: str) -> Generator[Preparing]:
    model = find_model(found, source.rule)
    manifest = cache.Manifest(
        name="folder",
        key=source.key,
        shape=model.shape,
        splits={name: len(files) for name, files in found.splits.items()},
        classes=found.classes,
        skipped=(),
        source=str(source.folder),
        evidence={},
    )
    with store.drafting(source.root, manifest) as draft:
        skip = source.on_error == "skip"
        content = yield from fill(draft, found, source.rule, model, skip=skip)
        filled = replace(draft.manifest, evidence={"content": content})
        draft.manifest = _describe(filled, found, stamp)


def _describe(manifest: cache.Manifest, found: Layout, stamp: str) -> cache.Manifest:
    """The manifest of a store of these images, with what tells them from others."""
    evidence = {**manifest.evidence, "folders": dict(found.folders), "files": stamp}
    return replace(manifest, evidence=evidence, notes=_notes(found))


def _notes(found: Layout) -> tuple[str, ...]:
    if not found.left_out:
        return ()
    names = layout.some([layout.readable(name) for name in found.left_out])
    return (
        f"{count(len(found.left_out), 'file')} in '{found.shown}' left out, hidden or "
        f"without an image's ending: {names}",
    )


def _warnings(source: _Source, manifest: cache.Manifest) -> tuple[str, ...]:
    if not manifest.skipped:
        return manifest.notes
    total = manifest.examples + len(manifest.skipped)
    names = layout.some([f"{name} ({reason})" for name, reason in manifest.skipped])
    return (
        f"{len(manifest.skipped):,} of {count(total, 'image')} in '{source.shown}' "
        f"skipped: {names}",
        *manifest.notes,
    )


def _verify(source: _Source, opened: cache.Store) -> None:
    """Look at every file, and read them all only where they look otherwise.

    Raises:
        ChangedError: they are not those that the store was made of.
    """
    found = source.look()
    stamp, evidence = found.stamp(), opened.manifest.evidence
    if stamp and stamp == evidence["files"]:
        return
    if found.content([decode.digest(path) for path in found.paths]) == evidence["content"]:
        _note_look(source, opened, _describe(opened.manifest, found, stamp))
        return
    if cache.read_store(source.place) == opened:
        cache.remove_store(source.place)
    raise ChangedError(
        f"the images in '{source.shown}' changed since they were prepared",
        "run the same command again: it prepares them anew",
    )


def _note_look(source: _Source, opened: cache.Store, manifest: cache.Manifest) -> None:
    """Spare the next start the reading; in a cache that is only read, it reads again."""
    with contextlib.suppress(RdfiaError), store.preparing(source.root, source.place):
        if cache.read_store(source.place) == opened:
            cache.renew_manifest(opened, manifest)
