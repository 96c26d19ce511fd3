"""Every format on disk: the run folder, its files, its lock. Nothing here needs torch.

The lines of a log are appended; a checkpoint remembers how long the log was, and a resumed run
cuts it there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import durable, registry
from rdfia_cli.component_code import file_hashes, package_hashes
from rdfia_cli.config import RunConfig, differences, resolve
from rdfia_cli.errors import ComponentError, RdfiaError, UsageError
from rdfia_cli.sources import COMPONENT_GROUPS, LISTS, Sources
from rdfia_cli.spec import parse_spec

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
DECISION_MAP = "decision_map.json"
RESULT = "result.json"
FAILURE = "failure.json"
"""What ended a run that diverged: the object `rdfia.error/1`; gone as soon as it goes on."""
CHECKPOINTS = "checkpoints"
LOCK = ".lock"
SECONDS_BETWEEN_KNOCKS = 0.05

FILES = "files"
"""The key of the environment that tells the hashes of files of components and first weights."""

PACKAGES = "packages"
"""The key of the environment that tells the hashes of the modules of plugins."""

DATA_FINGERPRINT = "data_fingerprint"
"""The key of the environment that tells the content of the data."""


class TakenError(RdfiaError):
    """Another process writes the run folder."""


class Log:
    """A file of JSON lines that only grows, but for the cut when a run is resumed."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one object as one line."""
        self._file.write((json.dumps(line, allow_nan=False) + "\n").encode())
        self._file.flush()

    def flush(self) -> int:
        """Make every line durable and return the length in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def cut(self, length: int) -> None:
        """Drop what stands beyond a length.

        Raises:
            RdfiaError: the file is shorter than that.
        """
        if length > self._file.seek(0, os.SEEK_END):
            raise RdfiaError(
                f"{self._file.name} is shorter than when the checkpoint was written",
                "it was changed from outside: delete the run folder, or use --if-exists new",
            )
        self._file.truncate(length)
        self._file.seek(length)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a torn last line is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def best_epoch(epochs: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The line of METRICS with the highest validation accuracy and, at an equal one, lowest loss.

    Returns:
        The first of them; None where nothing was kept for validation.
    """
    return max(
        (line for line in epochs if "validation" in line),
        key=lambda line: (line["validation"]["accuracy"], -line["validation"]["loss"]),
        default=None,
    )


@dataclass(frozen=True)
class Place:
    """Where a run goes and what is there already.

    Attributes:
        folder: the run folder.
        state: `absent`, `unfinished` or `finished`.
    """

    folder: Path
    state: str

    @property
    def result(self) -> dict[str, Any]:
        """The stored result of a finished run, naming the folder as it is reached now."""
        try:
            stored = json.loads((self.folder / RESULT).read_bytes())
        except ValueError:
            raise RdfiaError(
                f"{self.folder / RESULT} is not JSON", "delete it and run the same command again"
            ) from None
        return {**stored, "run": str(self.folder)}


def place(config: RunConfig) -> Place:
    """Find the run folder of a configuration and apply `if_exists`.

    Raises:
        UsageError: the folder is in the way: another run's, no run's, or `if_exists` is `error`.
    """
    folder = config.folder
    if config.if_exists == "new":
        return Place(_free_name(folder), "absent")
    return look(config, folder)


def look(config: RunConfig, folder: Path) -> Place:
    """What is in a folder, as seen by a configuration that wants to go there.

    Raises:
        UsageError: the folder is in the way, as in `place`.
    """
    state = _state(folder)
    if state == "absent":
        return Place(folder, state)
    if config.if_exists == "new":
        raise UsageError(f"another process just took '{folder}'", "run the same command again")
    if config.if_exists == "error":
        raise UsageError(
            f"'{folder}' holds a run already", "choose another --out, or --if-exists resume or new"
        )
    theirs = _load_toml(folder / CONFIG)
    changed = list(differences(tomllib.loads(config.to_toml()), theirs))
    if changed:
        more = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UsageError(
            f"'{folder}' holds another run: {changed[0]}{more}",
            "choose another --out, or --if-exists new",
        )
    return Place(folder, state)


def _free_name(folder: Path) -> Path:
    """The folder itself, else the first free of folder-2, folder-3, ..."""
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def _state(folder: Path) -> str:
    if not folder.exists():
        return "absent"
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is a file, not a run folder", "choose another --out")
    if (folder / RESULT).exists():
        return "finished"
    if (folder / CONFIG).exists():
        return "unfinished"
    # A run killed while it wrote its first files leaves no more than these.
    if all(entry.name.startswith(".") or entry.name == ENVIRONMENT for entry in folder.iterdir()):
        return "absent"
    raise UsageError(
        f"'{folder}' is neither empty nor a run folder", "choose another folder with --out"
    )


def _load_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"'{path}' is damaged: {error}", "delete the run folder, or use --if-exists new"
        ) from None


def load_config(folder: Path) -> RunConfig:
    """The configuration of an existing run.

    A component of a file is found where the run found it, from whichever folder this is called.

    Raises:
        UsageError: the folder holds no run, or its configuration is damaged.
        ComponentError: a component is missing or broken; plugins that the run had are named.
    """
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"'{folder}' is not a run folder" if folder.exists() else f"no run at '{folder}'",
            "give the folder that `rdfia train` printed, such as runs/cnn-digits-1a2b3c4d",
        )
    _load_toml(folder / CONFIG)
    recorded = _recorded(folder, FILES)
    sources = Sources(flags={}, files=[folder / CONFIG])
    try:
        return resolve(sources, lambda name: _locate(name, recorded)).config
    except ComponentError as error:
        lost = _lost_plugins(folder)
        if not lost:
            raise
        raise ComponentError(
            f"{error.fact}; the run had {lost}, not installed here", f"install {lost}"
        ) from None


def written_config(folder: Path) -> RunConfig:
    """The configuration of an existing run as it is written, were its components not to be had.

    Raises:
        UsageError: it is damaged.
    """
    content = _load_toml(folder / CONFIG)
    for key in COMPONENT_GROUPS:
        tables = content.get(key, [])
        split = [_split_table(table) for table in (tables if key in LISTS else [tables])]
        content[key] = split if key in LISTS else split[0]
    try:
        # JSON has the types of TOML: strict there, a list may be a tuple.
        return RunConfig.model_validate_json(json.dumps(content))
    except ValueError:
        raise UsageError(f"'{folder / CONFIG}' is damaged", "train the run again") from None


def _split_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a component with its hyper-parameters below a key of their own."""
    given = dict(table)
    return {"name": given.pop("name", None), "parameters": given}


def _lost_plugins(folder: Path) -> str:
    """The plugins that were there when a run began and are not installed now, as text."""
    known: Mapping[str, str] = (read_environment(folder) or {}).get("plugins", {})
    return " and ".join(f"{n} {version}" for n, version in known.items() if not _is_installed(n))


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _recorded(folder: Path, key: str) -> Mapping[str, str]:
    """The SHA-256 of what a run began with, by its absolute path: of files, or of packages."""
    return (read_environment(folder) or {}).get(key, {})


def _locate(name: str, recorded: Iterable[str]) -> str:
    """The name of a component of a file, by the path that was recorded where it is no other's.

    A run says `./file.py:function`, as its command did, and that was said in another folder.
    """
    file = parse_spec(name).file
    if file is None or str(Path(file[0]).resolve()) in recorded:
        return name
    tail = [part for part in Path(file[0]).parts if part != ".."]
    found = [path for path in map(Path, recorded) if list(path.parts[-len(tail) :]) == tail]
    return f"{found[0]}:{file[1]}" if len(found) == 1 and found[0].is_file() else name


def changed_code(folder: Path, components: Iterable[registry.Component]) -> list[str]:
    """The code of components that is not what it was when a run began, as warnings."""
    return [
        f"'{path}' changed since the run in '{folder}' began: it is used as it is now"
        for path in _changed_code(folder, tuple(components))
    ]


def _changed_code(folder: Path, components: Sequence[registry.Component]) -> list[str]:
    return [
        *_changed(folder, FILES, file_hashes(components)),
        *_changed(folder, PACKAGES, package_hashes(components)),
    ]


def _changed(folder: Path, key: str, hashes: Mapping[str, str]) -> list[str]:
    """Those of some files or packages, by their hashes, that are not what a run began with."""
    recorded = _recorded(folder, key)
    return [
        path
        for path, digest in hashes.items()
        if recorded and digest not in ([recorded[path]] if path in recorded else recorded.values())
    ]


def weights_hashes(config: RunConfig) -> dict[str, str]:
    """The SHA-256 of each file that the model's first weights come from, by its absolute path.

    A run that goes on does not need it: where it is gone, it is left out.
    """
    found: dict[str, str] = {}
    for path in config.weights_files:
        with contextlib.suppress(OSError), path.open("rb") as file:
            found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def changed_weights(folder: Path, config: RunConfig) -> list[str]:
    """The files of first weights that are not what they were when a run began, as warnings."""
    return [
        f"'{path}' changed since the run in '{folder}' began, which keeps the weights of then: "
        "--if-exists new begins with those of now"
        for path in _changed(folder, FILES, weights_hashes(config))
    ]


def outdated(folder: Path, config: RunConfig) -> list[str]:
    """The code and the weights that are not what they were when a run began, as warnings."""
    code = _changed_code(folder, tuple(config.components()))
    return [
        f"'{path}' changed since the run in '{folder}' began: its result is that of then"
        for path in [*code, *_changed(folder, FILES, weights_hashes(config))]
    ]


@contextlib.contextmanager
def claim(folder: Path, *, patience: float = 0.0) -> Generator[None]:
    """Hold the only right to write a run folder; the kernel releases it with the process.

    A folder in which nothing was written is removed again.

    Args:
        folder: the run folder.
        patience: seconds to wait for another process to let go of it.

    Raises:
        TakenError: another process holds it.
    """
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    lock = folder / LOCK
    descriptor = _lock(lock, patience)
    if descriptor is None:
        raise TakenError(
            f"another process is writing '{folder}'",
            "wait for it, or choose another --out or --if-exists new",
        )
    try:
        with durable.naming(folder):
            yield
    finally:
        if not (folder / CONFIG).exists():
            (folder / ENVIRONMENT).unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                for created in missing:
                    created.rmdir()
        os.close(descriptor)


def _lock(lock: Path, patience: float) -> int | None:
    end = time.monotonic() + patience
    while True:
        # Whoever held the folder may have removed it, empty as it was.
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = durable.lock_file(lock)
        if descriptor is not None or time.monotonic() >= end:
            return descriptor
        time.sleep(SECONDS_BETWEEN_KNOCKS)


def read_environment(folder: Path) -> dict[str, Any] | None:
    """What a run began with, or None where that was not written.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        return json.loads((folder / ENVIRONMENT).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        raise UsageError(
            f"'{folder / ENVIRONMENT}' is damaged", "delete it: the run can be read without"
        ) from None


def record_failure(folder: Path, error: RdfiaError) -> None:
    """Keep in a run folder why the run ended, unless the disk refuses, which must not hide it."""
    with contextlib.suppress(RdfiaError, OSError):
        durable.write_json(folder / FAILURE, error.describe())


def data_changed(folder: Path, fingerprint: str) -> bool:
    """Whether a dataset is known to have another content than when a run began."""
    before = (read_environment(folder) or {}).get(DATA_FINGERPRINT)
    return bool(before) and before != fingerprint


def describe_environment(**more: Any) -> dict[str, Any]:
    """What a run ran on: versions, plugins, git revision; the caller adds its devices."""
    third_party = {
        component.distribution: component.version
        for component in registry.components()
        if component.distribution != registry.OWN_DISTRIBUTION
    }
    return {
        "schema": "rdfia.environment/1",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: metadata.version(name) for name in ("rdfia-cli", "torch", "numpy")},
        "plugins": third_party,
        "git": _git_revision(),
        "command": sys.argv[1:],
        **more,
    }


def _git_revision() -> str | None:
    """The revision of the working directory, with `+` where files differ from it."""
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip()
