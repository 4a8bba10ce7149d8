"""What a node has while it is active: subscriptions, one worker, and a feed for each camera.

All of it is made anew by every activation, so that none sees the frames, stamps or late results
of the one before.
"""

from __future__ import annotations

from functools import partial
from typing import Any, TYPE_CHECKING

from seg_node.core.intake import Turns
from seg_node.ros.cameras import Subscriptions
from seg_node.ros.diagnostics import Health
from seg_node.ros.feed import Arrived, Feed
from seg_node.ros.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from seg_node.core.pipeline import Segmenter
    from seg_node.data.converters import Converter
    from seg_node.ros.cameras import Camera
    from seg_node.ros.outputs import Outputs


class Activation:
    """Takes images in and sends masks out, from `start` to `stop`.

    Args:
        node: the node that owns the subscriptions, and whose clock counts.
        cameras: cameras of the node.
        segmenter: makes the masks.
        convert: converter of raw images.
        outputs: where the results of each camera go, by its name.
        warn: called with a camera, a subject and a text when something is wrong with an image.

    Attributes:
        health: what happened to the images of each camera, by its name.

    """

    def __init__(  # noqa: PLR0913 - all that images meet, handed in by name
        self,
        node: Any,
        *,
        cameras: Sequence[Camera],
        segmenter: Segmenter,
        convert: Converter,
        outputs: Mapping[str, Outputs],
        warn: Callable[[Camera, str, str], None],
    ) -> None:
        """Connect the parts; nothing comes in yet."""
        turns: Turns[Arrived] = Turns(camera.name for camera in cameras)
        self.health = {camera.name: Health() for camera in cameras}
        self._segmenter = segmenter
        self._overload = ""
        self._feeds = {
            camera.name: Feed(
                topic=camera.topic,
                intake=turns[camera.name],
                convert=convert,
                outputs=outputs[camera.name],
                health=self.health[camera.name],
                warn=partial(warn, camera),
            )
            for camera in cameras
        }
        self._turns = turns
        self._worker = Worker(
            segmenter=segmenter,
            turns=turns,
            feeds=self._feeds,
            now_ns=lambda: int(node.get_clock().now().nanoseconds),
        )
        transport = segmenter.config.input.transport
        self._subscriptions = Subscriptions(
            node, cameras, transport, self._on_image, self._on_camera_info
        )

    @property
    def failure(self) -> str:
        """Traceback of what killed the worker, empty while it is well."""
        return self._worker.failure

    def dropped(self, camera: str) -> int:
        """Return how many messages or frames of a camera were overtaken by newer ones."""
        return self._feeds[camera].dropped

    def start(self, *, enabled: bool) -> None:
        """Start the worker, and subscribe last."""
        self.apply()
        self._worker.start()
        self.enable(on=enabled)

    def stop(self, timeout_s: float) -> bool:
        """Unsubscribe, forget what waits and end after the frame in work.

        Returns:
            False if that frame takes longer than `timeout_s`; its result will not be published.

        """
        self._subscriptions.close()
        return self._worker.stop(timeout_s)

    def enable(self, *, on: bool) -> None:
        """Subscribe to all cameras anew, or to none; forget what waits."""
        self._subscriptions.close()
        self._turns.clear()
        if on:
            self._subscriptions.open(self._overload)

    def apply(self) -> None:
        """Apply the setting `overload`, which may have changed, down to the depth of the queue."""
        overload = self._segmenter.config.overload
        if overload == self._overload:
            return
        self._overload = overload
        for feed in self._feeds.values():
            feed.keep(overload)
        if self._subscriptions.are_open:
            self._subscriptions.open(overload)

    def _on_image(self, camera: str, message: Any) -> None:
        self._feeds[camera].put(message)

    def _on_camera_info(self, camera: str, message: Any) -> None:
        self._feeds[camera].camera_info = message
