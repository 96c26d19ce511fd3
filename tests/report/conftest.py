"""What the tests of pages share: folders of runs and of sweeps, made up from their formats."""

from __future__ import annotations

import base64
import json
import os
import select
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdfia_cli.report.attention import AttentionPicture
from rdfia_cli.report.model_sections import Bin, Findings, Wrong

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


class Browser:
    """A headless Chromium, spoken to over a pipe by its DevTools protocol."""

    def __init__(self) -> None:
        read_by_it, self._to = os.pipe()
        self._from, written_by_it = os.pipe()
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        flags = "--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --no-first-run"
        command = f"exec {shlex.quote(CHROMIUM)} {flags} --user-data-dir={self._profile.name}"
        self._process = subprocess.Popen(
            ["bash", "-c", f"{command} 3<&{read_by_it} 4>&{written_by_it}"],
            pass_fds=(read_by_it, written_by_it),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_by_it)
        os.close(written_by_it)
        self._number = 0
        self._buffer = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result; events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], 60)[0], "Chromium does not answer"
            read = os.read(self._from, 1 << 20)
            assert read, "Chromium ended"
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        if "method" in message:
            self.events.append(message)
        return message

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a page and wait until it is loaded and its script has run."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._receive()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def complaints(self) -> list[Any]:
        """Exceptions, errors and warnings of the console since the page was opened."""
        self.evaluate("1")
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in kinds]

    @property
    def loaded(self) -> list[str]:
        """Addresses that were asked for since the page was opened, but for data in the page."""
        sent = [
            e["params"]["request"]
            for e in self.events
            if e["method"] == "Network.requestWillBeSent"
        ]
        return [request["url"] for request in sent if not request["url"].startswith("data:")]

    def hover(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Move the pointer to a place in an element, which is scrolled into view."""
        place = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const b = e.getBoundingClientRect();"
            f" return [b.left + b.width * {across}, b.top + b.height * {down}]; }})()"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])

    def press(self, key: str) -> None:
        """Press a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def screenshot(self, path: Path, *, full: bool = True) -> None:
        """Draw the page into a .png file."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(found["data"]))

    def print(self, path: Path) -> None:
        """Print the page into a .pdf file."""
        found = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium for all tests that need one."""
    if not CHROMIUM:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    opened = Browser()
    yield opened
    opened.close()


def make_findings(names: Sequence[str], *, attention: bool = True) -> Findings:
    """What might be found in a model, made up: every class is taken for the next one once."""
    count = len(names)
    draw = np.random.default_rng(0)
    confusion = [
        [9 if c == r else int(c == (r + 1) % count) for c in range(count)] for r in range(count)
    ]
    layer = {
        **{"name": "conv1", "type": "Conv2d", "output": [1, 4, 8, 8]},
        **{"parameters": 40, "macs": 2304},
    }
    field = {
        **{"name": "conv1", "leaf": True, "size": [3, 3], "stride": [1, 1]},
        **{"global": False, "exact": True},
    }
    wrong = [
        Wrong(draw.random((1, 8, 8), np.float32), i, name, names[(i + 1) % count], 0.9)
        for i, name in enumerate(names)
    ]
    picture = AttentionPicture(
        title="",
        captions=[names[0]],
        images=draw.random((1, 3, 8, 8), np.float32),
        heads=draw.random((1, 2, 4, 4), np.float32),
        rollout=draw.random((1, 4, 4), np.float32),
        positions=draw.uniform(-1, 1, (4, 4, 4, 4)).astype(np.float32),
    )
    return Findings(
        result={
            **{"split": "test", "examples": 10 * count, "calibration_error": 0.0321},
            "classes": [{"name": name, "examples": 10, "accuracy": 0.9} for name in names],
            "confusion": confusion,
        },
        bins=[Bin(i / 4, (i + 1) / 4, 10 * i, 8 * i, (i + 0.5) / 4) for i in range(4)],
        wrong=wrong,
        mistakes=count,
        filters=draw.normal(size=(4, 1, 3, 3)).astype(np.float32),
        filter_name="conv1.weight",
        attention=picture if attention else None,
        parameters={"parameters": 40, "macs": 2304, "layers": [layer]},
        fields={"layers": [field]},
    )


@pytest.fixture
def findings() -> Callable[..., Findings]:
    """`make_findings`."""
    return make_findings
