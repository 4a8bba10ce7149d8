"""The segmentation node in a process of its own, started and ended as on a robot."""

from __future__ import annotations

import json
import os
from pathlib import Path
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from seg_node.core.types import SegNodeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from typing_extensions import Self

    from seg_node.core.config import Value

STOP_S = 20.0
"""Seconds that the node has to end after SIGINT, before it is killed."""
TAIL_LINES = 15


class NodeDiedError(SegNodeError):
    """The node ended by itself; the text holds the end of its log."""


class NodeProcess:
    """Runs `python -m seg_node.ros.node`; use it as a context manager.

    Args:
        parameters: ROS parameters by name.
        log: file that takes what the node says.
        environ: environment to start it in.

    """

    def __init__(
        self, parameters: Mapping[str, Value], log: Path, environ: Mapping[str, str]
    ) -> None:
        """Start the node."""
        self.log = log
        self.command = [sys.executable, "-m", "seg_node.ros.node", "--ros-args"]
        for name, value in parameters.items():
            # JSON is YAML, in which rcl reads values: text stays text, 1.0 stays a float.
            self.command += ["-p", f"{name}:={json.dumps(value)}"]
        with log.open("wb") as file:
            # A session of its own: Ctrl-C on the terminal reaches the node through `stop` only.
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=node_environment(environ),
                start_new_session=True,
            )

    def check(self) -> None:
        """Do nothing while the node runs.

        Raises:
            NodeDiedError: the node has ended.

        """
        status = self._process.poll()
        if status is not None:
            msg = f"the node ended early with exit status {status}; {self.tail()}"
            raise NodeDiedError(msg)

    def stop(self) -> int:
        """End the node by SIGINT, as Ctrl-C would, and return its exit status.

        One that does not end within 20 s is killed; then the status is negative.
        """
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def tail(self) -> str:
        """Return the end of the log, for an error message."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        end = "\n".join(lines[-TAIL_LINES:]) or "(nothing)"
        return f"{self.log} ends with:\n{end}"

    def __enter__(self) -> Self:
        """Return itself; the constructor has started the node."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the node, whatever ended the body."""
        self.stop()


def node_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the node: all of ours, and its output unbuffered.

    LD_LIBRARY_PATH stays as it is: ROS from the package index finds its libraries by it, and its
    start-up code does not set it a second time in a child. From a source tree that is not
    installed the child finds the package as we did.
    """
    root = Path(__file__).resolve().parents[2]
    given = {**os.environ, **environ, "PYTHONUNBUFFERED": "1"}
    if (root / "setup.py").is_file():
        paths = [p for p in (given.get("PYTHONPATH"), str(root)) if p]
        given["PYTHONPATH"] = os.pathsep.join(paths)
    return given
