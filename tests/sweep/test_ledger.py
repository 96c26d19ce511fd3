"""Nothing in a ledger is lost, and no trial is had by two."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdfia_cli import durable
from rdfia_cli.sweep.ledger import LEDGER, OWNERS, Ledger, decode, encode

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def opened(folder: Path) -> Ledger:
    ledger = Ledger(folder)
    ledger.refresh()
    return ledger


@given(st.dictionaries(st.text().filter(lambda k: k != "check"), JSON, min_size=1, max_size=4))
def test_a_record_comes_back_from_its_line(record):
    line = encode(record)
    assert line.count(b"\n") == 1
    assert decode(line[:-1]) == record


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(), min_size=1),
    st.integers(0, 10_000),
    st.integers(1, 255),
)
def test_a_changed_byte_is_noticed(record, place: int, change: int):
    line = bytearray(encode(record)[:-1])
    line[place % len(line)] ^= change
    assert decode(bytes(line)) is None


@pytest.mark.parametrize("line", [b'{"a":NaN}', b"[]", b"\xff", b"{", b'{"check":"0"}'])
def test_a_line_that_no_ledger_writes_is_no_record(line):
    assert decode(line) is None


def test_a_ledger_cut_at_any_byte_of_its_last_record_loses_that_record_only(tmp_path):
    ledger = opened(tmp_path)
    ledger.begin({"identity": {"a": 1}})
    ledger.propose({n: {"optimizer.lr": str(n)} for n in range(3)})
    ledger.end(0, "finished", validation={"accuracy": 0.5})
    before = (tmp_path / LEDGER).stat().st_size
    ledger.end(1, "finished", validation={"accuracy": 0.75})
    whole = (tmp_path / LEDGER).read_bytes()
    for length in range(before, len(whole)):
        (tmp_path / LEDGER).write_bytes(whole[:length])
        found = opened(tmp_path)
        assert found.head["identity"] == {"a": 1}
        assert [found.entry(n).state for n in range(3)] == ["finished", "waiting", "waiting"]
        # What is written next stands on a line of its own.
        found.end(1, "finished", validation={"accuracy": 0.75})
        assert (tmp_path / LEDGER).read_bytes() == whole


def test_a_damaged_line_in_the_middle_loses_itself_only(tmp_path):
    ledger = opened(tmp_path)
    for number in range(3):
        ledger.end(number, "finished", validation=None)
    lines = (tmp_path / LEDGER).read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"trial":1', b'"trial":7')
    (tmp_path / LEDGER).write_bytes(b"".join(lines))
    found = opened(tmp_path)
    assert found.damaged == 1
    assert [found.entry(n).state for n in (0, 1, 2, 7)] == [
        *("finished", "waiting", "finished", "waiting")
    ]


def test_what_ended_stays_as_it_ended_first(tmp_path):
    ledger = opened(tmp_path)
    ledger.end(0, "failed", error="diverged", message="the loss became nan")
    ledger.end(0, "finished", validation=None)
    assert opened(tmp_path).entry(0).state == "failed"


def test_a_failed_trial_can_be_opened_again(tmp_path):
    ledger = opened(tmp_path)
    ledger.lose([0], "crash")
    ledger.end(0, "failed", error="crash", message="")
    ledger.end(1, "finished", validation=None)
    ledger.reopen([0, 1])
    found = opened(tmp_path)
    assert (found.entry(0).state, found.entry(0).attempts) == ("waiting", 0)
    assert found.entry(1).state == "finished"


def test_the_first_choice_of_an_engine_stays(tmp_path):
    assert opened(tmp_path).choose("s", "stacked", "5 times as fast")["engine"] == "stacked"
    assert opened(tmp_path).choose("s", "process", "0.5 times as fast")["engine"] == "stacked"


def test_a_living_owner_keeps_what_it_took_and_a_gone_one_does_not(tmp_path):
    other = opened(tmp_path)
    with other.owning():
        assert other.take([0, 1]) == [0, 1]
        # A lock is a process's: another process must look.
        assert _in_another_process(_take, tmp_path, [0, 1, 2]) == [2]
    assert _in_another_process(_take, tmp_path, [0, 1, 2]) == [0, 1, 2]


def _take(folder: Path, numbers: list[int]) -> list[int]:
    ledger = opened(folder)
    with ledger.owning():
        return ledger.take(numbers)


def _in_another_process(function, *arguments):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def _grab(folder: Path, results) -> None:
    ledger = opened(folder)
    with ledger.owning():
        mine: list[int] = []
        for number in range(200):
            mine += ledger.take([number])
        results.put(mine)
        results.close()
        results.join_thread()
        signal.pause()


def _hold_lock(path: Path, held, seconds: float) -> None:
    descriptor = durable.lock_file(path)
    held.set()
    time.sleep(seconds)
    path.unlink()
    os.close(descriptor)


def test_a_process_becomes_an_owner_while_another_looks_who_is_alive(tmp_path):
    ledger = opened(tmp_path)
    mine = tmp_path / OWNERS / ledger.owner
    mine.parent.mkdir()
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    looking = context.Process(target=_hold_lock, args=(mine, held, 0.5))
    looking.start()
    assert held.wait(60)
    with ledger.owning():
        assert ledger.take([0]) == [0]
        assert _in_another_process(_take, tmp_path, [0, 1]) == [1]
    looking.join()


def test_what_is_free_is_neither_ended_nor_had_by_another_living_process(tmp_path):
    other = opened(tmp_path)
    other.end(0, "finished", validation=None)
    with other.owning():
        other.take([1])
        assert _in_another_process(_look, tmp_path, [0, 1, 2]) == ([2], 2)
        assert other.free([0, 1, 2]) == [1, 2]
    assert _in_another_process(_look, tmp_path, [0, 1, 2]) == ([1, 2], 1)


def _look(folder: Path, numbers: list[int]) -> tuple[list[int], int]:
    ledger = opened(folder)
    with ledger.owning():
        return ledger.free(numbers), ledger.company


def test_what_a_sampler_learnt_first_stays(tmp_path):
    ledger = opened(tmp_path)
    ledger.learn({0: {"state": "failed"}})
    opened(tmp_path).learn({0: {"state": "finished"}, 1: {"state": "pruned"}})
    found = opened(tmp_path)
    assert [found.entry(n).learnt for n in (0, 1)] == [{"state": "failed"}, {"state": "pruned"}]


def test_ends_are_known_in_their_order(tmp_path):
    ledger = opened(tmp_path)
    for number in (2, 0):
        ledger.end(number, "failed", error="crash", message="")
    ledger.reopen([2])
    ledger.end(2, "finished", validation=None)
    assert opened(tmp_path).ended == [2, 0, 2]


def test_several_processes_never_take_one_trial_twice(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=_grab, args=(tmp_path, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    taken = [results.get(timeout=60) for _ in workers]
    assert sorted(n for mine in taken for n in mine) == list(range(200))
    for worker in workers:
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    assert _in_another_process(_take, tmp_path, list(range(200))) == list(range(200))


def test_a_ledger_that_vanishes_is_an_error_and_no_empty_one(tmp_path):
    ledger = opened(tmp_path)
    ledger.end(0, "finished", validation=None)
    (tmp_path / LEDGER).unlink()
    with pytest.raises(Exception, match="vanished"):
        ledger.refresh()
