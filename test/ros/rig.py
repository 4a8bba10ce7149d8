"""A real node in its own process, and the client that talks to it over DDS.

Waiting is always for a condition, never for a time: `PATIENCE_S` only ends what would never come.
ROS is imported where it is used, so that tests are collected, and skipped, where it is missing.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
import os
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 300.0
"""Longest wait for anything; this machine may be busy with something more important."""
STATES = ["unconfigured", "inactive", "active"]
"""The lifecycle from bottom to top."""
RESEND_S = 3.0
"""A best-effort image may be lost: one that brings no mask is sent again after this time."""


class NodeProcess:
    """One node in its own process, its output in a file.

    Args:
        log: file for its output.
        args: arguments after `--ros-args`.
        env: environment variables besides the inherited ones.
        program: Python code to run instead of `-m seg_node.ros.node`.

    """

    started: list[NodeProcess]
    """Processes of this session, newest last; their logs are shown when a test fails."""

    def __init__(
        self, log: Path, args: Sequence[str] = (), *, env: dict[str, str], program: str = ""
    ) -> None:
        """Start the process."""
        self.log = log
        code = ["-c", program] if program else ["-m", "seg_node.ros.node"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *code, "--ros-args", *args],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, **env},
            )
        NodeProcess.started.append(self)

    @property
    def text(self) -> str:
        """Return what it has printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Return whether it has not ended."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Return the exit status when it has ended."""
        return self._process.wait(PATIENCE_S)

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        """Send a signal and return the exit status."""
        self._process.send_signal(number)
        return self.wait()

    def kill(self) -> None:
        """End it for certain; harmless when it has ended."""
        self._process.kill()
        self._process.wait()


NodeProcess.started = []


@dataclass(frozen=True)
class Status:
    """One diagnostic status of the node.

    Attributes:
        level: "OK", "WARN", "ERROR" or "STALE".
        text: its message.
        values: its values, by key.
        stamp_ns: header stamp of the array that it came in.

    """

    level: str
    text: str
    values: dict[str, str]
    stamp_ns: int

    def count(self, key: str) -> int:
        """Return a value that is a whole number."""
        return int(self.values[key])


class Client:
    """A ROS participant of its own, spun only while it waits: messages queue up meanwhile."""

    def __init__(self, name: str = "client") -> None:
        """Join the domain."""
        import rclpy  # noqa: PLC0415 - only where the tests that need it run
        from rclpy.executors import SingleThreadedExecutor  # noqa: PLC0415

        self.context = rclpy.Context()
        self.context.init()
        self.node: Any = rclpy.create_node(name, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._publishers: dict[tuple[str, str, bool], Any] = {}
        self._clients: dict[str, Any] = {}

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def wait_for(self, ready: Callable[[], Any], what: str) -> Any:
        """Spin until `ready` returns something true, and return that."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := ready()):
            if time.monotonic() > deadline:
                pytest.fail(f"waited {PATIENCE_S:g} s in vain for {what}")
            self._executor.spin_once(timeout_sec=0.05)
        return found

    def qos(self, *, reliable: bool = True, latched: bool = False) -> Any:
        """Return a deep profile, so that nothing is lost on this side."""
        from rclpy import qos  # noqa: PLC0415

        reliability = qos.ReliabilityPolicy
        durability = qos.DurabilityPolicy
        return qos.QoSProfile(
            depth=200,
            reliability=reliability.RELIABLE if reliable else reliability.BEST_EFFORT,
            durability=durability.TRANSIENT_LOCAL if latched else durability.VOLATILE,
        )

    @contextmanager
    def listening(
        self, kind: Any, topic: str, *, reliable: bool = True, latched: bool = False
    ) -> Iterator[list[Any]]:
        """Subscribe to a topic that somebody publishes; yields the list of what arrives."""
        seen: list[Any] = []
        profile = self.qos(reliable=reliable, latched=latched)
        subscription = self.node.create_subscription(kind, topic, seen.append, profile)
        try:
            self.wait_for(subscription.get_publisher_count, f"a publisher on {topic}")
            yield seen
        finally:
            self.node.destroy_subscription(subscription)

    def publish(self, message: Any, topic: str, *, reliable: bool = True) -> None:
        """Publish, as soon as somebody listens."""
        key = (topic, type(message).__name__, reliable)
        if key not in self._publishers:
            profile = self.qos(reliable=reliable)
            self._publishers[key] = self.node.create_publisher(type(message), topic, profile)
        publisher = self._publishers[key]
        self.wait_for(publisher.get_subscription_count, f"a subscription on {topic}")
        publisher.publish(message)

    def wait_until_delivered(self, topic: str) -> None:
        """Return when every reliable reader of a topic has what was published."""
        from rclpy.duration import Duration  # noqa: PLC0415

        for (name, _, reliable), publisher in self._publishers.items():
            if name == topic and reliable:
                assert publisher.wait_for_all_acked(Duration(seconds=PATIENCE_S))

    def forget(self, topic: str) -> None:
        """Destroy the publishers of a topic."""
        for key in [key for key in self._publishers if key[0] == topic]:
            self.node.destroy_publisher(self._publishers.pop(key))

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service and return the response."""
        future = self.ask(kind, name, request)
        self.wait_for(future.done, f"an answer of {name}")
        return future.result()

    def ask(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service and return the future of its response."""
        self.wait_for(lambda: self.offers(kind, name), f"service {name}")
        return self._clients[name].call_async(request)

    def offers(self, kind: Any, name: str) -> bool:
        """Return whether a service is there."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        return bool(self._clients[name].service_is_ready())


def stamp_of(message: Any) -> int:
    """Return the header stamp in nanoseconds."""
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def set_header(message: Any, stamp_ns: int, frame_id: str) -> Any:
    """Set the header and return the message."""
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    message.header.frame_id = frame_id
    return message


@dataclass
class Rig:
    """A node under test: its process, and what a user can do with it over DDS.

    Attributes:
        process: the process; None while it has not been started.
        client: who talks to it.
        start: starts the process.
        name: fully qualified name of the node.
        image: its image topic.
        first_state: lifecycle state that the process was found in.
        simulated: whether the node's clock is not that of this machine.

    """

    client: Client
    start: Callable[[], NodeProcess]
    name: str = "/segmentation"
    image: str = "/image"
    process: NodeProcess | None = None
    first_state: str = ""
    simulated: bool = False
    _statuses: dict[str, Status] = field(default_factory=dict)
    _last_stamp_ns: int = 0
    _subscriptions: list[Any] = field(default_factory=list)
    _masks: dict[int, Any] = field(default_factory=dict)
    _stats: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Subscribe to what the node always publishes."""
        from diagnostic_msgs.msg import DiagnosticArray  # noqa: PLC0415
        from sensor_msgs.msg import Image  # noqa: PLC0415

        qos = self.client.qos()
        self._subscriptions = [
            self.client.node.create_subscription(kind, topic, callback, qos)
            for kind, topic, callback in (
                (DiagnosticArray, "/diagnostics", self._on_diagnostics),
                (Image, f"{self.name}/mask", lambda m: self._masks.update({stamp_of(m): m})),
                (
                    DiagnosticArray,
                    f"{self.name}/stats",
                    lambda m: self._stats.update({stamp_of(m): m}),
                ),
            )
        ]

    def close(self) -> None:
        """Unsubscribe; the process lives on."""
        for subscription in self._subscriptions:
            self.client.node.destroy_subscription(subscription)

    # ---- lifecycle -----------------------------------------------------------------------------

    def state(self) -> str:
        """Return the lifecycle state; a process that has ended is not waited for."""
        from lifecycle_msgs.srv import GetState  # noqa: PLC0415

        service = f"{self.name}/get_state"
        self._wait_until(lambda: self.client.offers(GetState, service), f"service {service}")
        answer = self.client.call(GetState, service, GetState.Request())
        return str(answer.current_state.label)

    def change(self, transition: str) -> bool:
        """Ask for a transition and return whether it succeeded."""
        future = self.begin(transition)
        self.client.wait_for(future.done, transition)
        return bool(future.result().success)

    def begin(self, transition: str) -> Any:
        """Ask for a transition and return the future of the answer."""
        from lifecycle_msgs.srv import ChangeState  # noqa: PLC0415

        request = ChangeState.Request()
        request.transition.label = transition
        return self.client.ask(ChangeState, f"{self.name}/change_state", request)

    def readers(self) -> int:
        """Return how many subscriptions there are on the image topic."""
        return len(self.client.node.get_subscriptions_info_by_topic(self.image))

    def bring_to(self, state: str) -> None:
        """Take the steps from the present state to another one; start the process if need be."""
        if self.process is None or not self.process.running:
            self.process = self.start()
            self.first_state = self.client.wait_for(self._settled, "a settled state")
        up, down = ["configure", "activate"], ["cleanup", "deactivate"]
        now = self.client.wait_for(self._settled, "a settled state")
        here, there = STATES.index(now), STATES.index(state)
        while here != there:
            step = up[here] if here < there else down[here - 1]
            assert self.change(step), f"{step} failed"
            here += 1 if here < there else -1

    def _settled(self) -> str:
        """Return the state, empty while the node is between two."""
        state = self.state()
        return state if state in STATES else ""

    def _wait_until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait as the client does, but not for a process that has ended."""

        def ready_or_ended() -> bool:
            if self.process is not None and not self.process.running:
                pytest.fail(f"the node has ended; waited for {what}")
            return ready()

        self.client.wait_for(ready_or_ended, what)

    # ---- parameters ----------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> str:
        """Set a parameter; returns the reason of a refusal, empty if it was accepted."""
        from rcl_interfaces.srv import SetParameters  # noqa: PLC0415
        from rclpy.parameter import Parameter  # noqa: PLC0415

        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg()]
        answer = self.client.call(SetParameters, f"{self.name}/set_parameters", request)
        (result,) = answer.results
        assert result.successful or result.reason, "a refusal without a reason"
        return "" if result.successful else str(result.reason)

    def get(self, name: str) -> Any:
        """Return the value of a parameter."""
        from rcl_interfaces.srv import GetParameters  # noqa: PLC0415
        from rclpy.parameter import parameter_value_to_python  # noqa: PLC0415

        request = GetParameters.Request(names=[name])
        answer = self.client.call(GetParameters, f"{self.name}/get_parameters", request)
        return parameter_value_to_python(answer.values[0])

    @contextmanager
    def setting(self, name: str, value: Any) -> Iterator[None]:
        """Set a parameter for a while."""
        before = self.get(name)
        assert self.set(name, value) == ""
        try:
            yield
        finally:
            assert self.set(name, before) == ""

    # ---- images --------------------------------------------------------------------------------

    def next_stamp(self) -> int:
        """Return a stamp that was not used yet, close to now."""
        self._last_stamp_ns = max(time.time_ns(), self._last_stamp_ns + 1_000_000)
        return self._last_stamp_ns

    def picture(  # noqa: PLR0913 - the fields of an image message
        self,
        pixels: NDArray[Any],
        encoding: str = "rgb8",
        *,
        width: int | None = None,
        height: int | None = None,
        stamp_ns: int | None = None,
        frame_id: str = "camera_optical",
    ) -> Any:
        """Return an Image of rows of samples, uint8 [rows, row bytes] or [H, W, C]."""
        from sensor_msgs.msg import Image  # noqa: PLC0415

        rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
        message = Image(encoding=encoding, step=rows.shape[1])
        message.height = pixels.shape[0] if height is None else height
        message.width = pixels.shape[1] if width is None else width
        message.data.frombytes(rows.tobytes())
        stamp = self.next_stamp() if stamp_ns is None else stamp_ns
        return set_header(message, stamp, frame_id)

    def send(self, message: Any, *, reliable: bool = True) -> int:
        """Publish an image once and return its stamp."""
        kind = "" if hasattr(message, "encoding") else "/compressed"
        self.client.publish(message, self.image + kind, reliable=reliable)
        return stamp_of(message)

    def segment(self, message: Any, *, reliable: bool = True) -> Any:
        """Publish an image, until its mask comes; returns the mask."""
        self.insist(message, lambda: self.mask(stamp_of(message)), "a mask", reliable=reliable)
        return self.mask(stamp_of(message))

    def insist(
        self, message: Any, ready: Callable[[], Any], what: str, *, reliable: bool = True
    ) -> Any:
        """Publish an image again and again until `ready` returns something true."""
        sent_s = 0.0

        def attempt() -> Any:
            nonlocal sent_s
            if (found := ready()) or time.monotonic() - sent_s < RESEND_S:
                return found
            self.send(message, reliable=reliable)
            sent_s = time.monotonic()
            return None

        return self.client.wait_for(attempt, what)

    def mask(self, stamp_ns: int) -> Any:
        """Return the mask with this stamp, None if it has not come."""
        return self._masks.get(stamp_ns)

    def stats(self, stamp_ns: int) -> dict[str, str]:
        """Return the values of ~/stats with this stamp."""
        found = self.client.wait_for(lambda: self._stats.get(stamp_ns), "stats")
        return {pair.key: pair.value for pair in found.status[0].values}

    def stats_header(self, stamp_ns: int) -> Any:
        """Return the header of ~/stats with this stamp."""
        return self.client.wait_for(lambda: self._stats.get(stamp_ns), "stats").header

    @contextmanager
    def listening(self, kind: Any, output: str, *, latched: bool = False) -> Iterator[list[Any]]:
        """Subscribe to an output of the node, `~/output`, and wait until the node sees it."""
        topic = f"{self.name}/{output}"
        with self.client.listening(kind, topic, latched=latched) as seen:
            yield seen

    # ---- diagnostics ---------------------------------------------------------------------------

    def _on_diagnostics(self, message: Any) -> None:
        levels = {b"\x00": "OK", b"\x01": "WARN", b"\x02": "ERROR", b"\x03": "STALE"}
        for status in message.status:
            owner, _, part = status.name.rpartition(": ")
            if owner == self.name:
                values = {pair.key: pair.value for pair in status.values}
                self._statuses[part] = Status(
                    levels[status.level], status.message, values, stamp_of(message)
                )

    def next_status(self, part: str) -> Status:
        """Return the next report of one part: input, compute, output or model."""
        return self.wait_status(part, lambda _: True)

    def wait_status(
        self, part: str, accept: Callable[[Status], bool], *, message: Any = None
    ) -> Status:
        """Return the first report from now on that is accepted, publishing an image meanwhile.

        Reports that were made before, and still wait here to be read, do not count.
        """
        self._statuses.pop(part, None)
        now_ns = 0 if self.simulated else time.time_ns()

        def ready() -> Status | None:
            status = self._statuses.get(part)
            return status if status and status.stamp_ns >= now_ns and accept(status) else None

        what = f"an accepted status of {part}"
        found: Status = (
            self.client.wait_for(ready, what)
            if message is None
            else self.insist(message, ready, what)
        )
        return found


def colourful(height: int, width: int) -> NDArray[np.uint8]:
    """Return a smooth colourful picture, RGB [H, W, 3]."""
    coarse = np.random.default_rng(5).integers(0, 256, (6, 8, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def pixels_of(image: Any) -> NDArray[Any]:
    """Return the pixels of a mono8, mono16 or rgb8 message, [H, W] or [H, W, 3]."""
    kinds: dict[str, tuple[Any, int]] = {
        "mono8": (np.uint8, 1),
        "mono16": (np.uint16, 1),
        "rgb8": (np.uint8, 3),
    }
    kind, channels = kinds[image.encoding]
    flat = np.frombuffer(image.data, kind)
    shape = (image.height, image.width, channels)[: 2 if channels == 1 else 3]
    return flat.reshape(shape)
