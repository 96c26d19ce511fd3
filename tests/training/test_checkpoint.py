"""Checkpoints: bit for bit, any damage found, the generation before always there, no pickle."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import pickle
import random
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from rdfia_cli.errors import ComponentError, DivergedError, RdfiaError
from rdfia_cli.training import checkpoint
from rdfia_cli.training.inputs import Statistics
from rdfia_cli.training.loop import Progress, TrainingState

LOGS = {"metrics.jsonl": 223, "timings.jsonl": 87}
STEPS = 4
FILES = ("model.safetensors", "state.safetensors", "manifest.json")
OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True),
    "adam": functools.partial(torch.optim.Adam, lr=0.01, amsgrad=True),
    "adamw": functools.partial(torch.optim.AdamW, lr=0.01),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=0.01, centered=True),
}


def make_state(seed: int = 0, optimizer: str = "adam", epoch: int = 0) -> TrainingState:
    """A small state with batch statistics, moments, a schedule and a loss scale."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    built = OPTIMIZERS[optimizer](model.parameters())
    return TrainingState(
        model=model,
        optimizer=built,
        schedule=torch.optim.lr_scheduler.ExponentialLR(built, 0.9),
        scaler=torch.amp.GradScaler("cpu", enabled=True),
        statistics=Statistics(torch.randn(2, 1, 1), torch.rand(2, 1, 1)),
        progress=Progress(torch.zeros(STEPS), torch.zeros((), dtype=torch.int64), epoch=epoch),
    )


def train(state: TrainingState, steps: int, seed: int = 7) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        state.optimizer.zero_grad()
        logits = state.model(torch.randn(8, 2, 4, 4, generator=generator))
        loss = logits.logsumexp(1).mean()
        loss.backward()
        state.optimizer.step()
        state.schedule.step()
        state.progress.losses[state.progress.step % STEPS] = loss.detach()
        state.progress.correct += 3
        state.progress.step += 1
        state.progress.seconds += 1 / 3


def content(state: TrainingState) -> dict[str, bytes]:
    """All bits of a state."""
    return {
        "weights": checkpoint.encode_weights(state),
        "state": checkpoint.encode_state(state),
    }


def save_generations(folder: Path, count: int) -> list[dict[str, bytes]]:
    """One state trained and saved again and again; its bits each time."""
    state, saved = make_state(), []
    for _ in range(count):
        train(state, steps=1)
        checkpoint.save(folder, state, LOGS)
        saved.append(content(state))
    return saved


def restored(folder: Path) -> tuple[dict[str, bytes], list[str]]:
    found, warnings = checkpoint.newest(folder)
    assert found is not None
    state = make_state(seed=99)
    checkpoint.restore(state, found)
    return content(state), warnings


# Round trip


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_state_is_the_saved_one_bit_for_bit(tmp_path: Path, optimizer: str):
    state = make_state(optimizer=optimizer)
    train(state, steps=3)
    checkpoint.save(tmp_path, state, LOGS)
    other = make_state(seed=1, optimizer=optimizer)
    assert content(other) != content(state)
    found, warnings = checkpoint.newest(tmp_path)
    assert found is not None
    assert warnings == []
    checkpoint.restore(other, found)
    assert_equal_trees(other.model.state_dict(), state.model.state_dict())
    assert_equal_trees(other.optimizer.state_dict(), state.optimizer.state_dict())
    assert_equal_trees(other.schedule.state_dict(), state.schedule.state_dict())
    assert_equal_trees(other.scaler.state_dict(), state.scaler.state_dict())
    assert_equal_trees(vars(other.progress), vars(state.progress))
    assert_equal_trees(other.statistics.tensors(), state.statistics.tensors())


def assert_equal_trees(one: object, other: object) -> None:
    """The same types, keys, order and bits."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert safetensors.torch.save({"": one}) == safetensors.torch.save({"": other})
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_equal_trees(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal_trees(a, b)
    else:
        assert repr(one) == repr(other)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_restored_state_goes_on_with_the_same_bits(tmp_path: Path, optimizer: str):
    unbroken = make_state(optimizer=optimizer)
    train(unbroken, steps=2, seed=1)
    checkpoint.save(tmp_path, unbroken, LOGS)
    resumed = make_state(seed=5, optimizer=optimizer)
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    checkpoint.restore(resumed, found)
    for state in (unbroken, resumed):
        train(state, steps=3, seed=2)
    assert content(resumed) == content(unbroken)


def test_moments_are_restored_in_the_memory_layout_of_their_parameters(tmp_path: Path):
    """Otherwise sums over them may run in another order, and the last bits differ."""
    state, other = make_state(), make_state(seed=1)
    for each in (state, other):
        each.model.to(memory_format=torch.channels_last)
    train(state, steps=1)
    checkpoint.save(tmp_path, state, LOGS)
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    checkpoint.restore(other, found)
    for parameter, moments in other.optimizer.state.items():
        assert moments["exp_avg"].stride() == parameter.stride()


class Odd:
    """An optimizer's double with a state of the caller's choice."""

    def __init__(self, tree: dict) -> None:
        self.tree, self.state = tree, {}

    def state_dict(self) -> dict:
        return self.tree

    def load_state_dict(self, tree: dict) -> None:
        self.tree = tree


ODD_TREES = {
    "empty": {},
    "numbers": {"tenth": 0.1, "tiny": 5e-324, "most": 1.7976931348623157e308, "big": 2**80},
    "infinite": {"inf": math.inf, "minus": -math.inf, "minus zero": -0.0},
    "not a number": {"nan": math.nan},
    "integer keys": {0: {"exp": torch.ones(2)}, 1: {}, "1": "text one"},
    "other keys": {None: 1, True: 2, 2.5: 3},
    "nested": {"a": [1, (2, [3, {"b": (torch.arange(3), None, True)}]), ()], "c": [], "d": {}},
    "look-alikes": {"tensor": "x", "items": [["a", 1]], "list": {"tuple": [1]}},
    "like names": {0: torch.zeros(1), "0": torch.ones(1)},
    "dots": {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}},
    "dtypes": {str(t): torch.ones(2, 2, dtype=t) for t in (torch.bfloat16, torch.int64)},
    "booleans": {"mask": torch.tensor([True, False])},
    "zero dimensions": {"step": torch.tensor(3.0), "none at all": torch.zeros(0, 4)},
    "views": {
        "column": torch.arange(6.0).view(2, 3)[:, 1],
        "turned": torch.arange(6.0).view(2, 3).T,
    },
    "words": {"text": 'quotes " \\ \n and é 日本', "": "empty key"},
}


@pytest.mark.parametrize("name", ODD_TREES)
def test_odd_nested_trees_come_back_as_they_were(tmp_path: Path, name: str):
    state = make_state()
    state.optimizer = Odd(ODD_TREES[name])  # pyright: ignore
    checkpoint.save(tmp_path, state, LOGS)
    other = make_state()
    other.optimizer = Odd({"something": "else"})  # pyright: ignore
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    checkpoint.restore(other, found)
    assert_equal_trees(other.optimizer.tree, contiguous(ODD_TREES[name]))  # pyright: ignore


def contiguous(value: object) -> object:
    if isinstance(value, dict):
        return {key: contiguous(item) for key, item in value.items()}
    return value.contiguous() if isinstance(value, Tensor) else value


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", 1j, object()], ids=lambda v: type(v).__name__)
def test_a_state_that_only_pickle_could_hold_is_refused_with_its_place(value: object):
    state = make_state()
    state.optimizer = Odd({"state": [0, {"odd": value}]})  # pyright: ignore
    with pytest.raises(ComponentError, match=r"'optimizer\.state\.1\.odd' is a"):
        checkpoint.encode_state(state)


def test_tied_weights_are_stored_and_stay_tied(tmp_path: Path):
    def tie(seed: int) -> TrainingState:
        state = make_state(seed)
        torch.manual_seed(seed)
        one = nn.Linear(3, 3)
        other = nn.Linear(3, 3)
        other.weight = one.weight
        state.model = nn.Sequential(one, other)
        return state

    state, again = tie(0), tie(1)
    state.optimizer = again.optimizer = Odd({})  # pyright: ignore
    checkpoint.save(tmp_path, state, LOGS)
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    checkpoint.restore(again, found)
    assert_equal_trees(again.model.state_dict(), state.model.state_dict())
    assert again.model[0].weight is again.model[1].weight


def test_the_statistics_travel_in_the_file_of_the_weights(tmp_path: Path):
    state = make_state()
    checkpoint.save(tmp_path, state, LOGS)
    (generation,) = checkpoint.generations(tmp_path)
    tensors = safetensors.torch.load_file(generation / "model.safetensors")
    assert torch.equal(tensors["input_statistics.mean"], state.statistics.mean)
    assert torch.equal(tensors["0.weight"], state.model[0].weight)


def test_the_returned_checksum_is_that_of_the_weights_file(tmp_path: Path):
    checksum = checkpoint.save(tmp_path, make_state(), LOGS)
    (generation,) = checkpoint.generations(tmp_path)
    assert checksum == hashlib.sha256((generation / "model.safetensors").read_bytes()).hexdigest()
    manifest = json.loads((generation / "manifest.json").read_bytes())
    assert manifest["files"]["model.safetensors"]["sha256"] == checksum
    assert manifest["logs"] == LOGS


# Damage


@pytest.fixture
def two_generations(tmp_path: Path) -> tuple[Path, dict[str, bytes]]:
    """A folder with two generations, and the bits of the older."""
    folder = tmp_path / "checkpoints"
    older, _ = save_generations(folder, count=2)
    return folder, older


def assert_goes_back(folder: Path, older: dict[str, bytes], what: str) -> None:
    newest = checkpoint.generations(folder)[0]
    found, warnings = checkpoint.newest(folder)
    assert found is not None, what
    assert found.folder == checkpoint.generations(folder)[1], f"{what} went unnoticed"
    (warning,) = warnings
    assert warning.startswith(f"checkpoint '{newest}' is damaged (")
    assert warning.endswith("going back to the one before")
    assert "\n" not in warning


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_always_found(two_generations, name: str):
    folder, older = two_generations
    path = checkpoint.generations(folder)[0] / name
    sound = path.read_bytes()
    bits = range(8 * len(sound))
    if name != "manifest.json":
        bits = random.Random(name).sample(bits, 300)
    for bit in bits:
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert_goes_back(folder, older, f"bit {bit} of {name}")
    assert restored(folder)[0] == older
    path.write_bytes(sound)
    assert checkpoint.newest(folder)[1] == []


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_always_found(two_generations, name: str):
    folder, older = two_generations
    path = checkpoint.generations(folder)[0] / name
    sound = path.read_bytes()
    lengths = {0, 1, 7, 8, 9, len(sound) - 1, *range(0, len(sound), len(sound) // 100 + 1)}
    for length in lengths:
        path.write_bytes(sound[:length])
        assert_goes_back(folder, older, f"{name} of {length} bytes")
    assert restored(folder)[0] == older


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["zeros", "longer", "absent", "folder", "the other's"])
def test_other_damage_is_found_too(two_generations, name: str, damage: str):
    folder, older = two_generations
    path = checkpoint.generations(folder)[0] / name
    sound = path.read_bytes()
    path.unlink()
    if damage == "zeros":
        path.write_bytes(bytes(len(sound)))
    elif damage == "longer":
        path.write_bytes(sound + b"\n")
    elif damage == "folder":
        path.mkdir()
    elif damage == "the other's" and name != "manifest.json":
        path.write_bytes((checkpoint.generations(folder)[1] / name).read_bytes())
    assert_goes_back(folder, older, f"{name}: {damage}")
    assert restored(folder)[0] == older


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"3", b"null", b'{"files": 3}', b"{}", b"\xff", b'{"files": {}}']
)
def test_a_manifest_of_any_other_form_is_found(two_generations, manifest: bytes):
    folder, older = two_generations
    (checkpoint.generations(folder)[0] / "manifest.json").write_bytes(manifest)
    assert_goes_back(folder, older, "the manifest")


def test_when_all_generations_are_damaged_each_is_named_and_none_is_used(two_generations):
    folder, _ = two_generations
    for generation in checkpoint.generations(folder):
        (generation / "model.safetensors").write_bytes(b"")
    found, warnings = checkpoint.newest(folder)
    assert found is None
    assert len(warnings) == 2
    for path, line in zip(checkpoint.generations(folder), warnings, strict=True):
        assert str(path) in line


def test_a_run_that_goes_on_removes_the_damaged_generations_only(two_generations):
    folder, older = two_generations
    damaged, sound = checkpoint.generations(folder)
    (damaged / "state.safetensors").unlink()
    found, _ = checkpoint.newest(folder)
    checkpoint.discard_newer(folder, found)
    assert checkpoint.generations(folder) == [sound]
    assert restored(folder) == (older, [])


# Generations


def test_two_generations_are_kept_and_the_newest_is_used(tmp_path: Path):
    saved = save_generations(tmp_path, count=5)
    assert len(checkpoint.generations(tmp_path)) == 2
    assert restored(tmp_path) == (saved[4], [])
    shutil.rmtree(checkpoint.generations(tmp_path)[0])
    assert restored(tmp_path) == (saved[3], [])


def test_generations_are_ordered_by_progress_not_by_digits(tmp_path: Path):
    for epoch in (2, 25, 250, 2500):
        checkpoint.save(tmp_path, make_state(epoch=epoch), LOGS)
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.manifest["epoch"] == 2500
    assert len(checkpoint.generations(tmp_path)) == 2


def test_the_last_step_of_an_epoch_and_its_end_are_two_generations(tmp_path: Path):
    """Else the end of the epoch would overwrite the only checkpoint before it is verified."""
    state = make_state()
    train(state, steps=STEPS)
    checkpoint.save(tmp_path, state, LOGS)
    state.progress.epoch, state.progress.step = 1, 0
    checkpoint.save(tmp_path, state, LOGS)
    kept = [checkpoint.read(path) for path in checkpoint.generations(tmp_path)]
    assert [(one.manifest["epoch"], one.manifest["step"]) for one in kept] == [(1, 0), (0, STEPS)]


def test_what_a_killed_process_left_half_written_is_ignored_and_cleaned_up(tmp_path: Path):
    save_generations(tmp_path, count=1)
    (tmp_path / ".0000000009.partial").mkdir()
    (tmp_path / ".0000000009.partial" / "model.safetensors").write_bytes(b"half")
    found, warnings = checkpoint.newest(tmp_path)
    assert found is not None
    assert warnings == []
    state = make_state()
    train(state, steps=2)
    checkpoint.save(tmp_path, state, LOGS)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["0000000001", "0000000002"]


def test_a_half_written_folder_of_the_same_name_does_not_hinder(tmp_path: Path):
    state = make_state()
    (tmp_path / ".0000000000.partial").mkdir()
    (tmp_path / ".0000000000.partial" / "stray").write_bytes(b"half")
    checkpoint.save(tmp_path, state, LOGS)
    (generation,) = tmp_path.iterdir()
    assert sorted(path.name for path in generation.iterdir()) == sorted(FILES)


def test_a_run_without_checkpoints_has_none(tmp_path: Path):
    assert checkpoint.newest(tmp_path / "checkpoints") == (None, [])


def test_an_evaluation_beside_a_running_training_never_reads_a_removed_generation(
    two_generations, monkeypatch: pytest.MonkeyPatch
):
    """The trainer supersedes the generation between the listing and the reading of it."""
    folder, _ = two_generations
    real = checkpoint.read

    def read(path: Path) -> checkpoint.Generation | str:
        monkeypatch.setattr(checkpoint, "read", real)
        state = make_state()
        train(state, steps=3)
        checkpoint.save(folder, state, LOGS)
        shutil.rmtree(path)
        return real(path)

    monkeypatch.setattr(checkpoint, "read", read)
    found, warnings = checkpoint.newest(folder)
    assert found is not None
    assert found.manifest["step"] == 3
    assert warnings == []


# What is not worth keeping, and what cannot be kept


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, value: float):
    (saved,) = save_generations(tmp_path, count=1)
    state = make_state(epoch=3)
    with torch.no_grad():
        state.model[3].weight[1, 2] = value
    with pytest.raises(DivergedError, match=r"the weights '3\.weight' became NaN or infinite"):
        checkpoint.save(tmp_path, state, LOGS)
    assert restored(tmp_path) == (saved, [])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_state_whose_loss_is_not_finite_is_not_saved(tmp_path: Path, value: float):
    (saved,) = save_generations(tmp_path, count=1)
    state = make_state()
    train(state, steps=3)
    state.progress.losses[1] = value
    with pytest.raises(DivergedError, match=f"the loss became {value} in epoch 1, step 2"):
        checkpoint.save(tmp_path, state, LOGS)
    assert restored(tmp_path) == (saved, [])


@contextlib.contextmanager
def disk_that_takes(size: int) -> Iterator[None]:
    """No file may grow beyond a size: what a process sees of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 100, 1000, 3000])
def test_a_full_disk_keeps_the_generation_before_and_leaves_no_rest(tmp_path: Path, size: int):
    (saved,) = save_generations(tmp_path, count=1)
    state = make_state()
    train(state, steps=2)
    with pytest.raises(OSError, match="File too large"), disk_that_takes(size):
        checkpoint.save(tmp_path, state, LOGS)
    assert [path.name for path in tmp_path.iterdir()] == ["0000000001"]
    assert restored(tmp_path) == (saved, [])


def test_a_disk_that_reads_back_other_bytes_is_reported_and_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (saved,) = save_generations(tmp_path, count=1)
    real = checkpoint.durable.write_file

    def write_wrongly(path: Path, content: bytes) -> None:
        real(path, content[:-1] + b"?" if path.name == "model.safetensors" else content)

    monkeypatch.setattr(checkpoint.durable, "write_file", write_wrongly)
    state = make_state()
    train(state, steps=2)
    with pytest.raises(RdfiaError, match="reads back otherwise than it was written"):
        checkpoint.save(tmp_path, state, LOGS)
    monkeypatch.undo()
    contents, warnings = restored(tmp_path)
    assert contents == saved
    assert len(warnings) == 1


# Pickle


class Bomb:
    """What a pickle file may do to whoever reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def pickles(trap: Path) -> dict[str, bytes]:
    archive = trap.with_name("archive")
    torch.save({"weight": Bomb(trap)}, archive)
    return {
        "pickle": pickle.dumps(Bomb(trap)),
        "torch.save": archive.read_bytes(),
        "empty": b"",
        "text": b"weights",
    }


@pytest.mark.parametrize("kind", ["pickle", "torch.save", "empty", "text"])
@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors"])
def test_a_pickle_is_never_read_even_with_a_right_checksum(tmp_path: Path, kind: str, name: str):
    folder, trap = tmp_path / "checkpoints", tmp_path / "trap"
    save_generations(folder, count=1)
    (generation,) = checkpoint.generations(folder)
    replace_file(generation, name, pickles(trap)[kind])
    found, warnings = checkpoint.newest(folder)
    assert found is not None, warnings
    with pytest.raises(RdfiaError, match=f"{name}' is no safetensors file"):
        checkpoint.restore(make_state(), found)
    assert not trap.exists(), "the pickle was executed"


def replace_file(generation: Path, name: str, forged: bytes) -> None:
    """Put a file into a generation together with the checksums that vouch for it."""
    manifest = json.loads((generation / "manifest.json").read_bytes())
    del manifest["sha256"]
    manifest["files"][name] = {
        "bytes": len(forged),
        "sha256": hashlib.sha256(forged).hexdigest(),
    }
    (generation / name).write_bytes(forged)
    (generation / "manifest.json").write_bytes(checkpoint.encode_manifest(manifest))


def test_a_pickle_without_a_right_checksum_is_damage_like_any_other(two_generations):
    folder, older = two_generations
    trap = folder.parent / "trap"
    path = checkpoint.generations(folder)[0] / "model.safetensors"
    path.write_bytes(pickles(trap)["torch.save"])
    assert_goes_back(folder, older, "a pickle")
    assert not trap.exists()


def test_weights_of_another_model_are_refused_in_one_line_naming_the_checkpoint(tmp_path: Path):
    save_generations(tmp_path, count=1)
    found, _ = checkpoint.newest(tmp_path)
    assert found is not None
    with pytest.raises(ComponentError, match="do not fit the model") as refusal:
        checkpoint.load_weights(nn.Linear(2, 2), found)
    assert str(found.folder) in refusal.value.fact
    assert "\n" not in refusal.value.fact


# Rhythm


class Clock:
    """`time.monotonic` under the test's control."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(checkpoint.time, "monotonic", lambda: self.now)


def test_a_cheap_checkpoint_is_written_after_every_epoch(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(monkeypatch)
    rhythm = checkpoint.Rhythm()
    assert rhythm.due(epoch_ended=True)
    rhythm.written(0.001)
    clock.now += 0.03
    assert rhythm.due(epoch_ended=True)


def test_checkpoints_take_no_more_than_a_twentieth_of_the_time(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(monkeypatch)
    rhythm = checkpoint.Rhythm()
    began, spent = clock.now, 0.0
    while clock.now - began < 1000:
        clock.now += 1.0
        if rhythm.due(epoch_ended=True):
            clock.now += 2.0
            spent += 2.0
            rhythm.written(2.0)
    assert 0.03 < spent / (clock.now - began) <= 0.05


def test_within_an_epoch_a_checkpoint_is_due_after_a_minute(monkeypatch: pytest.MonkeyPatch):
    clock = Clock(monkeypatch)
    rhythm = checkpoint.Rhythm()
    rhythm.written(0.001)
    clock.now += 59
    assert not rhythm.due(epoch_ended=False)
    clock.now += 1
    assert rhythm.due(epoch_ended=False)


def test_a_very_slow_disk_puts_off_checkpoints_within_an_epoch_too(
    monkeypatch: pytest.MonkeyPatch,
):
    clock = Clock(monkeypatch)
    rhythm = checkpoint.Rhythm()
    rhythm.written(10.0)
    clock.now += 199
    assert not rhythm.due(epoch_ended=False)
    clock.now += 1
    assert rhythm.due(epoch_ended=False)
