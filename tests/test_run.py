"""The run folder: logs that can be cut, one writer, no folder overrun."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rdfia_cli import durable, run
from rdfia_cli.config import RunConfig, resolve
from rdfia_cli.errors import ComponentError, RdfiaError, UsageError
from rdfia_cli.sources import Sources

HOLD_A_CLAIM = """
import pathlib, sys, time
from rdfia_cli import run
with run.claim(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


def configure(**flags: str) -> RunConfig:
    return resolve(Sources(flags={"model": "mlp", "data": "circles", **flags})).config


def start(folder: Path, config: RunConfig, *, finished: bool = False) -> None:
    """What an unfinished, or a finished, run leaves in its folder."""
    folder.mkdir(parents=True)
    (folder / run.CONFIG).write_text(config.to_toml())
    if finished:
        durable.write_json(folder / run.RESULT, {"schema": "rdfia.result/1", "run": "elsewhere"})


def everything_under(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# Log


def test_a_log_is_one_json_object_a_line_in_order(tmp_path: Path):
    log = run.Log(tmp_path / "log")
    lines = [{"epoch": number, "loss": 0.1 * number} for number in range(5)]
    for line in lines:
        log.append(line)
    assert [json.loads(x) for x in (tmp_path / "log").read_text().splitlines()] == lines
    assert run.read_lines(tmp_path / "log") == lines
    log.close()


def test_a_log_cut_at_a_remembered_length_goes_on_as_if_nothing_had_come_after(tmp_path: Path):
    log = run.Log(tmp_path / "log")
    log.append({"epoch": 1})
    length = log.flush()
    log.append({"epoch": "lost"})
    log.close()
    again = run.Log(tmp_path / "log")
    again.cut(length)
    again.append({"epoch": 2})
    assert run.read_lines(tmp_path / "log") == [{"epoch": 1}, {"epoch": 2}]
    assert again.flush() == (tmp_path / "log").stat().st_size
    again.close()


def test_a_log_shorter_than_the_checkpoint_remembers_is_refused(tmp_path: Path):
    (tmp_path / "log").write_bytes(b"{}\n")
    log = run.Log(tmp_path / "log")
    with pytest.raises(RdfiaError, match="shorter than when the checkpoint was written"):
        log.cut(4)
    log.close()
    assert (tmp_path / "log").read_bytes() == b"{}\n"


@pytest.mark.parametrize("torn", range(1, len('{"epoch": 2}\n')))
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: int):
    (tmp_path / "log").write_text('{"epoch": 1}\n' + '{"epoch": 2}\n'[:torn])
    assert run.read_lines(tmp_path / "log") == [{"epoch": 1}]


def test_an_absent_log_has_no_lines(tmp_path: Path):
    assert run.read_lines(tmp_path / "log") == []


# place


@pytest.mark.parametrize("what", ["skip", "resume", "new", "error"])
def test_a_new_run_goes_into_the_folder_that_was_asked_for(tmp_path: Path, what: str):
    found = run.place(configure(out="here/it", if_exists=what))
    assert found == run.Place(Path("here/it"), "absent")
    assert everything_under(tmp_path) == set(), "finding a place creates nothing"


def test_without_out_the_folder_is_named_by_model_data_and_the_hash_of_the_settings():
    folders = [configure(seed=seed).folder for seed in ("1", "1", "2")]
    assert folders[0] == folders[1] != folders[2]
    assert folders[0].parent == Path("runs")
    assert folders[0].name.startswith("mlp-circles-")
    assert len(folders[0].name) == len("mlp-circles-") + 8


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("what", ["skip", "resume"])
def test_the_same_run_is_found_again(what: str, finished: bool):
    config = configure(out="here", if_exists=what)
    start(Path("here"), config, finished=finished)
    assert run.place(config) == run.Place(Path("here"), "finished" if finished else "unfinished")


def test_the_stored_result_names_the_folder_as_it_is_reached_now():
    config = configure(out="here")
    start(Path("here"), config, finished=True)
    assert run.place(config).result == {"schema": "rdfia.result/1", "run": "here"}


def test_a_damaged_result_is_refused_with_a_way_out():
    config = configure(out="here")
    start(Path("here"), config, finished=True)
    Path("here", run.RESULT).write_text('{"schema": "rdf')
    with pytest.raises(RdfiaError, match=r"result\.json is not JSON") as refusal:
        _ = run.place(config).result
    assert "delete it" in refusal.value.remedy


@pytest.mark.parametrize("finished", [False, True])
def test_if_exists_error_refuses_any_run(finished: bool):
    config = configure(out="here", if_exists="error")
    start(Path("here"), config, finished=finished)
    with pytest.raises(UsageError, match="'here' holds a run already"):
        run.place(config)


def test_if_exists_new_takes_the_first_free_number():
    config = configure(out="here", if_exists="new")
    for expected in ("here", "here-2", "here-3"):
        found = run.place(config)
        assert found == run.Place(Path(expected), "absent")
        start(found.folder, config, finished=True)


@pytest.mark.parametrize("what", ["skip", "resume"])
@pytest.mark.parametrize("finished", [False, True])
def test_another_runs_folder_is_refused_naming_what_differs(what: str, finished: bool):
    start(Path("here"), configure(lr="0.5"), finished=finished)
    with pytest.raises(UsageError) as refusal:
        run.place(configure(lr="0.25", out="here", if_exists=what))
    assert refusal.value.fact == (
        "'here' holds another run: optimizer.lr is 0.5 there and 0.25 here"
    )


def test_another_run_that_differs_in_much_is_refused_in_one_line():
    start(Path("here"), configure(lr="0.5", seed="3", epochs="7"))
    with pytest.raises(UsageError, match="epochs is 7 there and 30 here, and 2 more"):
        run.place(configure(out="here"))


@pytest.mark.parametrize("what", ["skip", "resume", "error"])
def test_a_foreign_folder_is_refused_and_left_as_it_is(tmp_path: Path, what: str):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("dear")
    with pytest.raises(UsageError, match="neither empty nor a run folder"):
        run.place(configure(out="thesis", if_exists=what))
    assert everything_under(tmp_path) == {"thesis", "thesis/chapter.tex"}


def test_a_file_in_the_way_is_refused():
    Path("here").write_text("")
    with pytest.raises(UsageError, match="'here' is a file"):
        run.place(configure(out="here"))


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", "environment.json"]])
def test_what_a_run_killed_at_its_very_start_leaves_counts_as_absent(left: list[str]):
    Path("here").mkdir()
    for name in left:
        Path("here", name).write_text("")
    assert run.place(configure(out="here")) == run.Place(Path("here"), "absent")


@pytest.mark.parametrize("content", [b"epochs = = 3", b"\xff\xfe\x00"])
def test_a_damaged_configuration_is_refused_with_its_name(content: bytes):
    config = configure(out="here")
    start(Path("here"), config)
    Path("here", run.CONFIG).write_bytes(content)
    with pytest.raises(UsageError, match=r"here/config\.toml' is damaged"):
        run.place(config)


def test_the_stored_configuration_is_read_back_as_it_was():
    config = configure(lr="0.1234567890123456789", seed="9223372036854775807")
    start(Path("here"), config)
    assert run.load_config(Path("here")).identity == config.identity


# claim


def test_a_second_process_gets_a_clear_error_and_the_lock_dies_with_the_first(tmp_path: Path):
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_CLAIM, str(folder)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RdfiaError, match="another process is writing") as refusal:
            claim_once(folder)
        assert refusal.value.exit_code == 1
        assert (folder / run.LOCK).exists(), "the refused one takes nothing from the first"
        holder.kill()
    claim_once(folder)


def claim_once(folder: Path) -> None:
    with run.claim(folder):
        pass


CLAIM_ONCE = """
import sys
from pathlib import Path
from rdfia_cli import errors, run
try:
    with run.claim(Path(sys.argv[1])):
        print("claimed")
except errors.RdfiaError as error:
    print(error.fact)
"""


def claim_from_another_process(folder: Path) -> str:
    """What another process is told that claims the folder."""
    command = [sys.executable, "-c", CLAIM_ONCE, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_claim_ends_with_its_block_and_can_be_taken_again(tmp_path: Path):
    folder = tmp_path / "run"
    for _ in range(2):
        with run.claim(folder):
            assert claim_from_another_process(folder).startswith("another process is writing")
        assert claim_from_another_process(folder) == "claimed\n"


def test_a_forked_child_that_outlives_the_process_does_not_keep_the_claim(tmp_path: Path):
    program = (
        "import os, signal, sys, time\nfrom pathlib import Path\nfrom rdfia_cli import run\n"
        "with run.claim(Path(sys.argv[1])):\n"
        "    child = os.fork()\n"
        "    if not child: time.sleep(60)\n"
        "    print(child, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        assert holder.wait() == -signal.SIGKILL
        assert claim_from_another_process(tmp_path / "run") == "claimed\n"
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_lock_file_that_nobody_holds_does_not_hinder(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / run.LOCK).write_text("12345")
    with run.claim(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_a_claimed_folder_in_which_nothing_was_written_is_removed_with_its_parents(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    claim_once(tmp_path / "mine" / "a" / "b" / "run")
    assert everything_under(tmp_path) == {"mine"}


def test_a_failed_start_removes_its_folder_too(tmp_path: Path):
    with pytest.raises(OSError, match="full"), run.claim(tmp_path / "a" / "run"):
        durable.write_json(tmp_path / "a" / "run" / run.ENVIRONMENT, {})
        raise OSError("full")
    assert everything_under(tmp_path) == set()


def test_a_folder_that_was_there_before_stays(tmp_path: Path):
    (tmp_path / "run").mkdir()
    claim_once(tmp_path / "run")
    assert everything_under(tmp_path) == {"run"}


def test_a_claimed_folder_that_became_a_run_stays(tmp_path: Path):
    with run.claim(tmp_path / "run"):
        durable.write_file(tmp_path / "run" / run.CONFIG, b"")
    assert everything_under(tmp_path) == {"run", "run/.lock", "run/config.toml"}


def test_a_lock_on_a_removed_file_is_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first process removes its unused folder just when the second has opened the lock."""
    real, calls = fcntl.lockf, []

    def remove_then_lock(descriptor: int, operation: int) -> None:
        if not calls:
            (tmp_path / "run" / run.LOCK).unlink()
        calls.append(descriptor)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "lockf", remove_then_lock)
    with run.claim(tmp_path / "run"):
        assert len(calls) == 2
        told = claim_from_another_process(tmp_path / "run")
        assert told.startswith("another process is writing")


# environment


def test_the_environment_names_versions_and_the_revision(tmp_path: Path):
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    revision = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    found = run.describe_environment(device="cpu")
    assert found["schema"] == "rdfia.environment/1"
    assert found["git"] == revision
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["versions"]["torch"]
    assert found["device"] == "cpu"


def test_outside_of_a_repository_there_is_no_revision(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", os.fspath(Path.cwd().parent))
    assert run.describe_environment()["git"] is None


def test_the_best_epoch_is_the_first_of_the_highest_accuracy_and_lowest_loss():
    def line(epoch: int, accuracy: float, loss: float) -> dict:
        return {"epoch": epoch, "validation": {"accuracy": accuracy, "loss": loss}}

    lines = [line(1, 0.8, 0.1), line(2, 0.9, 0.5), line(3, 0.9, 0.4), line(4, 0.9, 0.4)]
    best = run.best_epoch(lines)
    assert best is not None
    assert best["epoch"] == 3
    assert run.best_epoch([{"epoch": 1, "train": {}}]) is None


def test_a_run_of_a_plugin_that_is_gone_names_it(tmp_path: Path):
    (tmp_path / "config.toml").write_text('augment = ["spots"]\n')
    (tmp_path / "environment.json").write_text('{"plugins": {"rdfia-spots": "0.1.0"}}')
    with pytest.raises(ComponentError) as caught:
        run.load_config(tmp_path)
    assert "unknown augmentation 'spots'" in caught.value.fact
    assert "the run had rdfia-spots 0.1.0, not installed here" in caught.value.fact
    assert caught.value.remedy == "install rdfia-spots 0.1.0"
