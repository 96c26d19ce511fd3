"""`rdfia data prepare|list|remove`: the cache of decoded datasets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import cache, console
from rdfia_cli.errors import ComponentError, UsageError, nearest

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
    if not flags["quiet"]:
        for row in rows:
            if not row["cached"]:
                console.say(f"{row['data']} is embedded: it needs no preparing, and no cache")
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
        "cached": splits.memory is not None,
        "warnings": list(splits.warnings),
    }


def list_stores(flags: Mapping[str, Any]) -> None:
    """Show what is in the cache."""
    found = list(cache.stores(cache.folder()))
    if flags["json"]:
        rows = [_describe_store(store) for store in found]
        console.print_json({"schema": "rdfia.data/1", "cache": str(cache.folder()), "stores": rows})
        return
    left = list(cache.leftovers(cache.folder()))
    if left and not flags["quiet"]:
        console.say(
            f"{len(left)} in '{left[0].parent}' unfinished or damaged: see data remove --all"
        )
    if not found:
        if not flags["quiet"]:
            console.say(f"no dataset is in the cache '{cache.folder()}'")
        return
    console.print_table(
        ("store", "images", "shape", "classes", "MB", "dataset"),
        [
            (
                store.folder.name,
                f"{store.manifest.examples:,}",
                "x".join(map(str, _shape(store))),
                str(len(store.manifest.classes)),
                f"{store.bytes / 1e6:,.1f}",
                _spec(store, Path.cwd()),
            )
            for store in found
        ],
        title=str(cache.folder()),
    )


def _shape(store: cache.Store) -> tuple[int, int, int]:
    height, width, channels = store.manifest.shape
    return channels, height, width


def _settings(store: cache.Store) -> dict[str, Any]:
    """What the dataset of a store was asked for, by the names of its builder's parameters."""
    return {name: value for name, value in store.manifest.key.items() if name != "version"}


def _spec(store: cache.Store, below: Path | None = None) -> str:
    """The dataset of a store as one writes it, its path from a folder where it lies below that."""
    from rdfia_cli.config import ComponentConfig, spec_text

    settings = _settings(store)
    path = settings.get("path")
    if path and below is not None and Path(path).is_relative_to(below):
        settings["path"] = str(Path(path).relative_to(below))
    try:
        return spec_text("data", ComponentConfig(name=store.manifest.name, parameters=settings))
    except ComponentError:  # it came from a plugin that is gone
        return store.manifest.name


def _describe_store(store: cache.Store) -> dict[str, Any]:
    manifest = store.manifest
    return {
        "name": store.folder.name,
        "dataset": manifest.name,
        "spec": _spec(store),
        "key": dict(manifest.key),
        "source": manifest.source,
        "splits": dict(manifest.splits),
        "shape": list(_shape(store)),
        "classes": list(manifest.classes),
        "skipped": [list(entry) for entry in manifest.skipped],
        "bytes": store.bytes,
        "folder": str(store.folder),
    }


def remove(flags: Mapping[str, Any]) -> None:
    """Remove stores by name, by dataset or by its spec, or all of them."""
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
    if not flags["quiet"]:
        console.say(f"{freed / 1e6:,.1f} MB freed")


def _choose(names: Sequence[str], found: Sequence[cache.Store]) -> list[cache.Store]:
    chosen: dict[str, cache.Store] = {}
    for name in names:
        matching = _of_spec(name, found) if ":" in name else _of_name(name, found)
        chosen.update((store.folder.name, store) for store in matching)
    return list(chosen.values())


def _of_spec(text: str, found: Sequence[cache.Store]) -> list[cache.Store]:
    """The store that a dataset's spec is read from."""
    from rdfia_cli.config import resolve_component

    asked = resolve_component("data", text, "NAME")
    settings = dict(asked.parameters)
    if path := settings.get("path"):
        settings["path"] = str(Path(path).expanduser().resolve())
    matching = [s for s in found if (s.manifest.name, _settings(s)) == (asked.name, settings)]
    if not matching:
        raise UsageError(f"no store of '{text}' in '{cache.folder()}'", "see rdfia data list")
    return matching


def _of_name(name: str, found: Sequence[cache.Store]) -> list[cache.Store]:
    """The store of a name, all those of a dataset, or the one whose name begins so."""
    exact = [s for s in found if name in (s.folder.name, s.manifest.name)]
    matching = exact or [s for s in found if name and s.folder.name.startswith(name)]
    if not matching:
        known = sorted({s.folder.name for s in found} | {s.manifest.name for s in found})
        raise UsageError(
            f"no store '{name}' in '{cache.folder()}'", nearest(name, known, "rdfia data list")
        )
    if not exact and len(matching) > 1:
        raise UsageError(
            f"the names of {len(matching)} stores begin with '{name}'", "give more of one"
        )
    return matching
