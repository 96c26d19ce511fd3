"""A download ends whole and right, or goes on later from where it stopped."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdfia_cli.commands.progress import watch
from rdfia_cli.datasets import download
from rdfia_cli.datasets.download import Published, obtain
from rdfia_cli.errors import RdfiaError
from rdfia_cli.spec import Preparing

CONTENT = np.random.default_rng(0).integers(256, size=3_000_000, dtype=np.uint8).tobytes()
CUT = 1_000_000
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT: at /plain without ranges, at /cut only its beginning, at /wrong another."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.released = threading.Event()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.asked.append((self.path, wanted))
        content = b"wrong" if self.path == "/wrong" else CONTENT
        if self.path == "/absent":
            self.send_error(404)
            return
        start = int(wanted[6:-1]) if wanted and self.path != "/plain" else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.path in ("/cut", "/slow"):
            self.wfile.write(content[start : start + CUT])
            if self.path == "/slow":
                self.server.released.wait(60)
        else:
            self.wfile.write(content[start:])

    def log_message(self, format: str, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as serving:
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        yield serving
        serving.released.set()
        serving.shutdown()


@pytest.fixture
def get(tmp_path: Path, server: Server) -> Callable[..., Path]:
    """Download the file from addresses of the server."""

    def obtained(*names: str, show: Callable[[Preparing], None] = lambda _: None) -> Path:
        file = Published(tmp_path / "sets" / "file.bin", tuple(map(server.url, names)), MD5)
        (path,) = watch(obtain([file], download=True, option="path"), show)
        return path

    return obtained


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "sets").iterdir())


def test_a_file_is_downloaded_with_its_progress(get, tmp_path: Path):
    events: list[Preparing] = []
    assert get("file", show=events.append).read_bytes() == CONTENT
    assert {event.what for event in events} == {"downloading file.bin"}
    assert events[0].done == 0, "before anyone answers"
    assert events[-1].total == len(CONTENT)
    assert left(tmp_path) == ["file.bin"]


def test_what_is_there_is_not_downloaded_again(get, server: Server):
    get("file")
    get("file")
    assert len(server.asked) == 1


def test_a_cut_download_goes_on_where_it_stopped(get, server: Server, tmp_path: Path):
    with pytest.raises(RdfiaError, match="it ended after 1,000,000 of 3,000,000 bytes"):
        get("cut")
    assert left(tmp_path) == [".file.bin.partial"]
    assert get("file").read_bytes() == CONTENT
    assert server.asked == [("/cut", None), ("/file", f"bytes={CUT}-")]
    assert left(tmp_path) == ["file.bin"]


def test_the_next_mirror_goes_on_where_the_first_stopped(get, server: Server):
    assert get("absent", "cut", "file").read_bytes() == CONTENT
    assert server.asked[-1] == ("/file", f"bytes={CUT}-")


def test_a_killed_download_goes_on_where_it_stopped(get, server: Server, tmp_path: Path):
    program = (
        "import sys; from pathlib import Path\n"
        "from rdfia_cli.datasets.download import Published, obtain\n"
        "file = Published(Path(sys.argv[1]), (sys.argv[2],), sys.argv[3])\n"
        "for _ in obtain([file], download=True, option=''): pass"
    )
    place = tmp_path / "sets" / "file.bin"
    command = [sys.executable, "-c", program, str(place), server.url("slow"), MD5]
    partial = tmp_path / "sets" / ".file.bin.partial"
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 60
        while not partial.exists() or partial.stat().st_size < download.CHUNK:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    received = partial.stat().st_size
    assert get("file").read_bytes() == CONTENT
    assert server.asked[-1] == ("/file", f"bytes={received}-")
    assert left(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("there", [b"other", CONTENT[:-1], CONTENT, CONTENT + b"more"])
@pytest.mark.parametrize("name", ["file", "plain"])
def test_whatever_was_there_before_the_file_ends_right(get, tmp_path: Path, there: bytes, name):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / ".file.bin.partial").write_bytes(there)
    assert get(name).read_bytes() == CONTENT
    assert left(tmp_path) == ["file.bin"]


def test_a_file_with_another_checksum_is_refused_and_leaves_nothing(get, tmp_path: Path):
    with pytest.raises(RdfiaError, match=f"it has the md5 .*, not {MD5}"):
        get("wrong")
    assert left(tmp_path) == []


def test_each_mirror_says_why_it_does_not_serve(get, tmp_path: Path):
    with pytest.raises(RdfiaError) as caught:
        get("absent", "wrong")
    assert "127.0.0.1: HTTP 404 Not Found; 127.0.0.1: it has the md5" in caught.value.fact
    assert left(tmp_path) == []


def test_a_silent_server_is_given_up(get, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with pytest.raises(RdfiaError, match="no answer in"):
        get("slow")


class FullDisk(io.FileIO):
    """A file of which only reading works."""

    def write(self, _: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_not_taken_for_the_network(get, server: Server, monkeypatch):
    monkeypatch.setattr(download.os, "fdopen", FullDisk)
    with pytest.raises(RdfiaError, match="No space left on device") as caught:
        get("file", "file")
    assert caught.value.fact.startswith("cannot write")
    assert "RDFIA_CACHE" in caught.value.remedy
    assert len(server.asked) == 1, "the second mirror is not asked"


def test_two_processes_download_once(get, server: Server, tmp_path: Path):
    first = obtain(
        [Published(tmp_path / "sets" / "file.bin", (server.url("file"),), MD5)],
        download=True,
        option="",
    )
    next(first)
    program = (
        "import sys; from pathlib import Path\n"
        "from rdfia_cli.datasets.download import Published, obtain\n"
        "print('ready', flush=True)\n"
        "file = Published(Path(sys.argv[1]), (sys.argv[2],), sys.argv[3])\n"
        "for _ in obtain([file], download=True, option=''): pass"
    )
    arguments = [str(tmp_path / "sets" / "file.bin"), server.url("file"), MD5]
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as second:
        assert second.stdout is not None
        second.stdout.readline()
        time.sleep(0.2)
        for _ in first:
            pass
        assert second.wait(60) == 0
    assert len(server.asked) == 1
    assert left(tmp_path) == ["file.bin"]
