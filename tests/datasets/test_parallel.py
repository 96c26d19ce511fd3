"""Several processes decode what one would, and outlive the files that kill one of them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdfia_cli.datasets import parallel
from rdfia_cli.datasets.decode import Rule
from rdfia_cli.datasets.parallel import Examined
from rdfia_cli.errors import RdfiaError

RULE = Rule(None, "shorter", "colour")
SHAPE = (4, 4, 3)
ODD_WORKER = """
import os, signal
from rdfia_cli.datasets import worker
plain = worker.decode
def decode(content, rule):
    if content == b"kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if content == b"full":
        raise OSError({full}, "full")
    return plain(content, rule)
worker.decode = decode
worker.main()
"""


def images(folder: Path, count: int) -> list[str]:
    """Paths of one-coloured images, each of another colour."""
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        colour = (number % 251, number // 251, 7)
        Image.new("RGB", SHAPE[:2], colour).save(path)
    return [str(path) for path in paths]


def examine(paths: Sequence[str], target: Path, processes: int | None) -> list[Examined]:
    target.write_bytes(bytes(len(paths) * np.prod(SHAPE)))
    found: dict[int, Examined] = {}
    for answer in parallel.examine(paths, RULE, target, SHAPE, processes):
        assert not found.keys() & answer.keys()
        found |= answer
    return [found[row] for row in range(len(paths))]


def pixels(target: Path) -> np.ndarray:
    return np.frombuffer(target.read_bytes(), np.uint8).reshape(-1, *SHAPE)


@pytest.fixture
def odd_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that die of a file that holds `kill`, and have no space for one that holds `full`."""
    program = ODD_WORKER.format(full=errno.ENOSPC)
    monkeypatch.setattr(parallel, "COMMAND", (sys.executable, "-c", program))


def workers() -> list[str]:
    """The children of this process."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("processes", [1, 2, 5])
def test_every_image_comes_into_its_row_whatever_the_number_of_workers(tmp_path, processes: int):
    paths = images(tmp_path, 600)
    found = examine(paths, tmp_path / "out", processes)
    assert {(one.fault, one.shape) for one in found} == {(None, SHAPE)}
    expected = np.array([(number % 251, number // 251, 7) for number in range(600)], np.uint8)
    assert np.array_equal(pixels(tmp_path / "out"), np.tile(expected[:, None, None], (1, 4, 4, 1)))


def test_an_image_of_another_shape_is_looked_at_and_not_written(tmp_path: Path):
    paths = images(tmp_path, 3)
    Image.new("RGB", (5, 4), (9, 9, 9)).save(paths[1])
    found = examine(paths, tmp_path / "out", 1)
    assert found[1].shape == (4, 5, 3)
    assert not pixels(tmp_path / "out")[1].any()


def test_the_digest_is_that_of_the_bytes_also_of_what_is_no_image(tmp_path: Path):
    (tmp_path / "text.jpg").write_bytes(b"abc")
    (found,) = examine([str(tmp_path / "text.jpg")], tmp_path / "out", 1)
    # FIPS 180-2, appendix B.1
    assert found.digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert found.fault == "not an image"


@pytest.mark.usefixtures("odd_worker")
@pytest.mark.timeout(60)
@pytest.mark.parametrize("deadly", [{0}, {40}, {3, 4, 38}, set(range(6))], ids=str)
def test_a_file_that_kills_its_worker_is_named_and_the_others_are_there(tmp_path, deadly: set[int]):
    paths = images(tmp_path, 41)
    for row in deadly:
        Path(paths[row]).write_bytes(b"kill")
    found = examine(paths, tmp_path / "out", 2)
    assert {row for row, one in enumerate(found) if one.fault == "its decoder crashes"} == deadly
    assert all(one.fault is None for row, one in enumerate(found) if row not in deadly)
    written = {row for row, image in enumerate(pixels(tmp_path / "out")) if image.any()}
    assert written == set(range(41)) - deadly


@pytest.mark.usefixtures("odd_worker")
def test_a_disk_that_refuses_is_no_fault_of_the_file(tmp_path: Path):
    paths = images(tmp_path, 3)
    Path(paths[1]).write_bytes(b"full")
    with pytest.raises(OSError) as caught:
        examine(paths, tmp_path / "out", 1)
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.parametrize("command", [("/nonexistent",), ("false",), (sys.executable, "-c", "0")])
def test_workers_that_do_not_start_are_an_error_in_words(tmp_path, monkeypatch, command):
    monkeypatch.setattr(parallel, "COMMAND", command)
    with pytest.raises(RdfiaError, match="cannot start a process"):
        examine(images(tmp_path, 3), tmp_path / "out", 1)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_no_worker_is_left_however_it_ends(tmp_path: Path):
    before = workers()
    paths = images(tmp_path, 200)
    examine(paths, tmp_path / "out", 3)
    assert workers() == before
    answers = parallel.examine(paths, RULE, tmp_path / "out", SHAPE, 3)
    next(answers)
    assert len(workers()) == len(before) + 3
    answers.close()
    assert workers() == before


@pytest.mark.parametrize("name", ["ü.png", "a b\n.png", "\udcff.png", "-W.png"])
def test_any_name_of_a_file_will_do(tmp_path: Path, name: str):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(tmp_path / name)
    (found,) = examine([f"{tmp_path}/{name}"], tmp_path / "out", 1)
    assert found.fault is None


def test_modules_beside_the_user_are_not_taken_for_ours(tmp_path, monkeypatch):
    for name in ("json.py", "PIL.py", "numpy.py", "hashlib.py"):
        (tmp_path / name).write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    assert examine(images(tmp_path, 1), tmp_path / "out", 1)[0].fault is None


def test_no_warning_makes_an_image_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    exif = Image.Exif()
    exif[0x0112] = 1
    content = b"Exif\0\0" + exif.tobytes()[:-6]
    Image.new("RGB", (4, 4)).save(tmp_path / "odd.jpg", exif=content)
    with pytest.warns(UserWarning, match="EXIF"), Image.open(tmp_path / "odd.jpg") as image:
        image.getexif()
    (found,) = examine([str(tmp_path / "odd.jpg")], tmp_path / "out", 1)
    assert found.fault is None
