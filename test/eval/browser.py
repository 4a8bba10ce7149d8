"""A headless Chromium that opens pages, points, clicks and listens, by its DevTools protocol.

The protocol runs over two pipes, so that nothing listens on a port and no driver is needed.
"""

from __future__ import annotations

import base64
from collections import deque
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from typing import Any, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

ON_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)
"""Starts the browser with the two pipes where it looks for them."""
PATIENCE_S = 60.0
TROUBLE = ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")


class Browser:
    """A browser with one page; use it as a context manager.

    Attributes:
        trouble: what the page has complained of since it was opened: exceptions, messages of
            the console, loads that failed.
        requests: addresses that it asked for, its own first.

    """

    def __init__(self, profile: Path) -> None:
        """Start it; skips the test where there is none.

        Args:
            profile: folder for its own files.

        """
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            pytest.skip("chromium is not installed")
        self.trouble: list[str] = []
        self.requests: list[str] = []
        (its_in, self._out), (self._in, its_out) = _pipe(), _pipe()
        command = [sys.executable, "-c", ON_3_AND_4, str(its_in), str(its_out), program]
        command += ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        self._process = subprocess.Popen(
            command,
            pass_fds=(its_in, its_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(its_in)
        os.close(its_out)
        self._text = b""
        self._messages: deque[dict[str, Any]] = deque()
        self._number = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")

    def __enter__(self) -> Self:
        """Return itself; the constructor has started it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(PATIENCE_S)
        os.close(self._in)
        os.close(self._out)

    def open(self, page: Path, width: int) -> None:
        """Open a file in a window of this width and wait until it is loaded and drawn."""
        self.trouble.clear()
        self.requests.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=844,
            deviceScaleFactor=1,
            mobile=False,
        )
        self._messages.clear()
        self.call("Page.navigate", url=page.as_uri())
        self._wait_for("Page.loadEventFired")
        self.settle()

    def settle(self) -> None:
        """Wait until the page has drawn what it was told."""
        self.ask("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited."""
        found = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def point(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse to a place of the window, perhaps press there, and let the page react."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        if click:
            for what in ("mousePressed", "mouseReleased"):
                self.call(
                    "Input.dispatchMouseEvent", type=what, x=x, y=y, button="left", clickCount=1
                )
        self.settle()

    def picture(self) -> bytes:
        """Return the whole page as a PNG file."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        number = self._number
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                result: dict[str, Any] = answer["result"]
                return result
            self._messages.append(answer)

    def _wait_for(self, method: str) -> None:
        while not any(message.get("method") == method for message in self._messages):
            self._messages.append(self._next())

    def _next(self) -> dict[str, Any]:
        """Return the next message, noting what is wrong and what is asked for."""
        until = time.monotonic() + PATIENCE_S
        while b"\0" not in self._text:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._text += part
        text, _, self._text = self._text.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        method, params = message.get("method", ""), message.get("params", {})
        if method in TROUBLE or method == "Runtime.consoleAPICalled":
            self.trouble.append(f"{method}: {json.dumps(params)[:500]}")
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        return message


def _pipe() -> tuple[int, int]:
    """Return the reading and the writing end of a pipe, away from descriptors 3 and 4."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 50))
        os.close(end)
    return ends[0], ends[1]
