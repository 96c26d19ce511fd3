"""The ledger of a sweep: an append-only file of what became of each trial.

A line is one record and its checksum. Killed at any instant, a process leaves at most a torn last
line, which the next one drops. Several processes may work on one ledger: each reads what the
others wrote, and takes trials, under one lock; what a dead process had taken is free again, since
the kernel releases the lock that each one holds on a file of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdfia_cli import durable
from rdfia_cli.errors import RdfiaError

LEDGER = "ledger.jsonl"
LOCK = ".ledger.lock"
OWNERS = ".owners"
CHECK_DIGITS = 16
ENDS = ("finished", "failed", "pruned")


@dataclass
class Entry:
    """What the ledger knows of a trial.

    Attributes:
        settings: what it was given, by setting; None before it was proposed.
        owner: the process that took it last.
        state: `waiting`, or how it ended: `finished`, `failed`, `pruned`.
        end: the record of its end.
        attempts: how often it ended without an answer.
        learnt: what the sampler learnt of it when its round closed; None before that.
    """

    settings: Mapping[str, str] | None = None
    owner: str | None = None
    state: str = "waiting"
    end: Mapping[str, Any] = field(default_factory=dict[str, Any])
    attempts: int = 0
    learnt: Mapping[str, Any] | None = None


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as a line: its JSON, and the checksum of that as the last key."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    check = hashlib.sha256(text.encode()).hexdigest()[:CHECK_DIGITS]
    return f'{text[:-1]},"check":"{check}"}}\n'.encode()


def decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its end, or None where it is not what was written."""
    try:
        record = json.loads(line)
        if isinstance(record, dict) and encode(_unchecked(record)) == line + b"\n":
            return _unchecked(record)
    except ValueError:  # no JSON, or none that may stand there, such as NaN
        pass
    return None


def _unchecked(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "check"}


class Ledger:
    """The ledger of one sweep folder, as one process sees it.

    Attributes:
        head: the first record: what the sweep is; empty before it is written.
        entries: by trial number.
        ended: the trials in the order of their ends; one that was tried again ends once more.
        choices: the engine that was chosen for each structure, with the reason.
        damaged: how many lines before the last are not what was written.
        owner: the name of this process.
        company: how many living processes had the ledger when `free` looked, this one included.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = 0
        self.head: Mapping[str, Any] = {}
        self.entries: dict[int, Entry] = {}
        self.choices: dict[str, Mapping[str, str]] = {}
        self.ended: list[int] = []
        self.damaged = 0
        self.owner = uuid.uuid4().hex[:12]
        self.company = 1

    def entry(self, number: int) -> Entry:
        """What is known of a trial."""
        return self.entries.setdefault(number, Entry())

    def refresh(self) -> None:
        """Read what other processes have written."""
        with self._locked():
            pass

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records, and make them durable."""
        with self._locked():
            self._write(list(records))

    def begin(self, head: Mapping[str, Any]) -> None:
        """Write what the sweep is, unless it stands there already."""
        with self._locked():
            if not self.head:
                self._write([{**head, "event": "sweep"}])

    def propose(self, settings: Mapping[int, Mapping[str, str]]) -> None:
        """Write what trials were given, where that is not known yet."""
        with self._locked():
            self._write(
                [
                    {"event": "proposed", "trial": number, "settings": dict(values)}
                    for number, values in settings.items()
                    if self.entry(number).settings is None
                ]
            )

    def free(self, numbers: Iterable[int]) -> list[int]:
        """Those trials that have not ended and that no other living process has."""
        with self._locked():
            return self._free(numbers)

    def _free(self, numbers: Iterable[int]) -> list[int]:
        others = self._living_owners() - {self.owner}
        self.company = len(others) + 1
        return [
            number
            for number in numbers
            if self.entry(number).state == "waiting" and self.entry(number).owner not in others
        ]

    def take(self, numbers: Iterable[int]) -> list[int]:
        """Take those of the trials that are free; returns them."""
        with self._locked():
            free = self._free(numbers)
            self._write(
                [
                    {"event": "taken", "trial": number, "owner": self.owner}
                    for number in free
                    if self.entry(number).owner != self.owner
                ]
            )
        return free

    def end(self, number: int, state: str, **content: Any) -> None:
        """Write how a trial ended; what another process wrote before stays."""
        with self._locked():
            if self.entry(number).state == "waiting":
                self._write([{"event": state, "trial": number, **content}])

    def lose(self, numbers: Sequence[int], reason: str) -> None:
        """Write that trials ended without an answer, and may be tried once more."""
        self.append({"event": "lost", "trial": number, "reason": reason} for number in numbers)

    def reopen(self, numbers: Iterable[int]) -> None:
        """Write that trials which failed are to be tried again."""
        with self._locked():
            self._write(
                [
                    {"event": "reopened", "trial": number}
                    for number in numbers
                    if self.entry(number).state == "failed"
                ]
            )

    def learn(self, learnt: Mapping[int, Mapping[str, Any]]) -> None:
        """Write what the sampler learns of trials; what it learnt before stays.

        A search that is begun again learns the same, whatever becomes of the trials later.
        """
        with self._locked():
            self._write(
                [
                    {"event": "learnt", "trial": number, "learnt": dict(content)}
                    for number, content in learnt.items()
                    if self.entry(number).learnt is None
                ]
            )

    def choose(self, structure: str, engine: str, reason: str) -> Mapping[str, str]:
        """Write which engine executes trials of a structure; the first choice stays."""
        with self._locked():
            if structure not in self.choices:
                record = {"structure": structure, "engine": engine, "reason": reason}
                self._write([{"event": "chosen", **record}])
        return self.choices[structure]

    @contextlib.contextmanager
    def owning(self) -> Generator[None]:
        """Be a living owner; the kernel ends that with the process."""
        owners = self._folder / OWNERS
        owners.mkdir(parents=True, exist_ok=True)
        mine = owners / self.owner
        # Another process that looks who is alive holds every such lock for an instant.
        descriptor = durable.lock_file(mine, wait=True)
        assert descriptor is not None
        try:
            yield
        finally:
            mine.unlink(missing_ok=True)
            os.close(descriptor)

    def _living_owners(self) -> set[str]:
        living: set[str] = set()
        for path in (self._folder / OWNERS).glob("*"):
            if path.name == self.owner:  # a second look would release this process's own lock
                living.add(path.name)
                continue
            descriptor = durable.lock_file(path)
            if descriptor is None:
                living.add(path.name)
                continue
            path.unlink(missing_ok=True)
            os.close(descriptor)
        return living

    @contextlib.contextmanager
    def _locked(self) -> Generator[None]:
        """Hold the ledger alone, having read all that stands in it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = durable.lock_file(self._folder / LOCK, wait=True)
        assert descriptor is not None
        try:
            self._catch_up()
            yield
        finally:
            os.close(descriptor)

    def _catch_up(self) -> None:
        path = self._folder / LEDGER
        if not path.exists():
            if self._read:
                raise RdfiaError(
                    f"'{path}' vanished while the sweep ran", "run the same command again"
                )
            return
        with path.open("rb") as file:
            file.seek(self._read)
            fresh = file.read()
        whole, _, torn = fresh.rpartition(b"\n")
        for line in whole.split(b"\n") if whole else ():
            record = decode(line)
            if record is None:
                self.damaged += 1
            else:
                self._note(record)
        self._read += len(fresh) - len(torn)
        if torn:
            with path.open("r+b") as file:
                file.truncate(self._read)

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        if not records:
            return
        path = self._folder / LEDGER
        begins = not path.exists()
        content = b"".join(encode(record) for record in records)
        with path.open("ab") as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                error.filename = str(path)
                with contextlib.suppress(OSError):
                    os.truncate(path, self._read)
                raise
        if begins:
            durable.flush_folder(self._folder)
        self._read += len(content)
        for record in records:
            self._note(record)

    def _note(self, record: Mapping[str, Any]) -> None:
        event = record["event"]
        if event == "sweep":
            self.head = self.head or record
        elif event == "chosen":
            self.choices.setdefault(record["structure"], record)
        else:
            self._note_trial(event, self.entry(record["trial"]), record)
            if event in ENDS:
                self.ended.append(record["trial"])

    def _note_trial(self, event: str, entry: Entry, record: Mapping[str, Any]) -> None:
        if event == "proposed":
            entry.settings = entry.settings or record["settings"]
        elif event == "taken":
            entry.owner = record["owner"]
        elif event == "lost":
            entry.attempts += 1
        elif event == "learnt":
            entry.learnt = entry.learnt or record["learnt"]
        elif event == "reopened":
            entry.state, entry.end, entry.attempts, entry.owner = "waiting", {}, 0, None
        elif event in ENDS and entry.state == "waiting":
            entry.state, entry.end = event, record
