"""`rdfia data prepare|list|remove`: the cache of decoded datasets."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from rdfia_cli import cache, console
from rdfia_cli.errors import UsageError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rdfia_cli.config import ComponentConfig
    from rdfia_cli.spec import Splits


def prepare(flags: Mapping[str, Any]) -> None:
    """Make datasets ready, so that a run that needs them starts at once."""
    from rdfia_cli.config import resolve_component

    chosen = [resolve_component("data", text, "argument") for text in flags["datasets"]]
    from rdfia_cli.commands.progress import display, watch
    from rdfia_cli.training.assembly import load_verified

    rows: list[dict[str, Any]] = []
    with display(quiet=flags["quiet"]) as show:
        for component in chosen:
            splits = watch(load_verified(component), show)
            for text in splits.warnings:
                console.warn(text)
            rows.append(_describe_splits(component, splits))
    if flags["json"]:
        console.print_json({"schema": "rdfia.data/1", "datasets": rows})
        return
    console.print_table(
        ("dataset", "shape", "classes", "train", "validation", "test"),
        [
            (
                row["data"],
                "x".join(map(str, row["shape"])),
                str(row["classes"]),
                *(f"{row['splits'].get(name, 0):,}" for name in ("train", "validation", "test")),
            )
            for row in rows
        ],
    )


def _describe_splits(component: ComponentConfig, splits: Splits) -> dict[str, Any]:
    from rdfia_cli.config import spec_text

    found = {"train": splits.train, "validation": splits.validation, "test": splits.test}
    return {
        "data": spec_text("data", component),
        "shape": list(splits.input.shape),
        "classes": splits.input.classes,
        "splits": {name: len(split) for name, split in found.items() if split is not None},
        "warnings": list(splits.warnings),
    }


def list_stores(flags: Mapping[str, Any]) -> None:
    """Show what is in the cache."""
    found = list(cache.stores(cache.folder()))
    if flags["json"]:
        rows = [_describe_store(store) for store in found]
        console.print_json({"schema": "rdfia.data/1", "cache": str(cache.folder()), "stores": rows})
        return
    if left := list(cache.leftovers(cache.folder())):
        console.say(
            f"{len(left)} in '{left[0].parent}' unfinished or damaged: see data remove --all"
        )
    if not found:
        console.say(f"no dataset is in the cache '{cache.folder()}'")
        return
    console.print_table(
        ("store", "images", "shape", "classes", "MB", "source"),
        [
            (
                store.folder.name,
                f"{store.manifest.examples:,}",
                "x".join(map(str, store.manifest.shape)),
                str(len(store.manifest.classes)),
                f"{store.bytes / 1e6:,.1f}",
                store.manifest.source,
            )
            for store in found
        ],
        title=str(cache.folder()),
    )


def _describe_store(store: cache.Store) -> dict[str, Any]:
    manifest = store.manifest
    height, width, channels = manifest.shape
    return {
        "name": store.folder.name,
        "dataset": manifest.name,
        "key": dict(manifest.key),
        "source": manifest.source,
        "splits": dict(manifest.splits),
        "shape": [channels, height, width],
        "classes": list(manifest.classes),
        "skipped": [list(entry) for entry in manifest.skipped],
        "bytes": store.bytes,
        "folder": str(store.folder),
    }


def remove(flags: Mapping[str, Any]) -> None:
    """Remove stores by the name of the store or of the dataset, or all of them."""
    names, everything = flags["names"] or [], flags["all"]
    if not names and not everything and not flags["downloads"]:
        raise UsageError("nothing to remove", "give a name from `rdfia data list`, or --all")
    found = list(cache.stores(cache.folder()))
    chosen = found if everything else _choose(names, found)
    freed = sum(store.bytes for store in chosen)
    for store in chosen:
        cache.remove_store(store.folder)
    removed = [store.folder.name for store in chosen]
    if everything:
        freed += sum(map(cache.remove_leftover, list(cache.leftovers(cache.folder()))))
    downloads = cache.folder() / cache.DOWNLOADS
    if flags["downloads"] and downloads.exists():
        freed += sum(path.stat().st_size for path in downloads.rglob("*") if path.is_file())
        shutil.rmtree(downloads)
        removed.append(cache.DOWNLOADS)
    if flags["json"]:
        console.print_json({"schema": "rdfia.data/1", "removed": removed, "bytes": freed})
        return
    for name in removed:
        console.print_result(name)
    console.say(f"{freed / 1e6:,.1f} MB freed")


def _choose(names: Sequence[str], found: Sequence[cache.Store]) -> list[cache.Store]:
    chosen: dict[str, cache.Store] = {}
    for name in names:
        matching = [s for s in found if name in (s.folder.name, s.manifest.name)]
        if not matching:
            known = sorted({s.folder.name for s in found} | {s.manifest.name for s in found})
            raise UsageError(
                f"no store '{name}' in '{cache.folder()}'", nearest(name, known, "rdfia data list")
            )
        chosen.update((store.folder.name, store) for store in matching)
    return list(chosen.values())
