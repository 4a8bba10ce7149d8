"""The ROS 2 node: newest images in, masks out; the segmentation itself is `Segmenter.step`.

Threads: the executor only stores images, answers services and reports health; one worker thread
converts, segments and publishes, for all cameras. So parameters and lifecycle stay
responsive however slow the network is, and an image that was overtaken by a newer one costs
nothing more.
"""

from __future__ import annotations

from functools import partial, wraps
import gc
import sys
import time
import traceback
from typing import Any, TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool, Trigger
import torch

from seg_node.core.heap import keep_freed_memory
from seg_node.core.pipeline import Segmenter
from seg_node.core.types import SegNodeError
from seg_node.data.converters import choose_converter
from seg_node.data.core_use import LinuxCores
from seg_node.nets.build import build_kernels, build_policies, model_for
from seg_node.ros import diagnostics, image_topics
from seg_node.ros.activation import Activation
from seg_node.ros.camera_diagnostics import report_cameras
from seg_node.ros.cameras import check_topics, find_cameras
from seg_node.ros.outputs import Classes, Outputs
from seg_node.ros.parameters import declare_autostart, Parameters
from seg_node.ros.stopping import StopRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.config import Config
    from seg_node.data.converters import ChosenConverter
    from seg_node.nets.build import Model
    from seg_node.ros.cameras import Camera

DIAGNOSTIC_PERIOD_S = 1.0
REPEAT_LOG_S = 5.0
WORKER_STOP_S = 30.0


def _spoken(transition: Callable[..., Any]) -> Callable[..., Any]:
    """Log what goes wrong in a lifecycle transition; rclpy itself would swallow it."""

    @wraps(transition)
    def wrapped(self: SegmentationNode, state: Any) -> Any:
        try:
            return transition(self, state)
        except SegNodeError as err:
            self.get_logger().error(f"{transition.__name__}: {err}")
            return TransitionCallbackReturn.FAILURE
        except Exception:
            self.get_logger().fatal(f"{transition.__name__}:\n{traceback.format_exc()}")
            raise

    return wrapped


class SegmentationNode(LifecycleNode):
    """Lifecycle node `segmentation`.

    Configure loads and warms up the model; activate subscribes; deactivate unsubscribes and
    forgets the frames; cleanup frees the model. With the parameter `autostart` (the default)
    `main` configures and activates it at once, so no lifecycle manager is needed.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Declare parameters, services and the diagnostics timer.

        Raises:
            ConfigError: a parameter given at start may not be used.

        """
        super().__init__("segmentation", **kwargs)
        self._state = "unconfigured"
        self._enabled = True
        self._model: Model | None = None
        self._segmenter: Segmenter | None = None
        self._converter: ChosenConverter | None = None
        self._classes: Classes | None = None
        self._outputs: dict[str, Outputs] = {}
        self._health: dict[str, diagnostics.Health] = {}
        self._active: Activation | None = None
        self._failure = ""
        self._last_log: dict[tuple[Camera, str], int] = {}
        self.autostart = declare_autostart(self)
        self._settings = Parameters(self, self._is_configured, self._check, self._apply)
        self.create_service(SetBool, "~/enable", self._on_enable)
        self.create_service(Trigger, "~/keyframe", self._on_keyframe)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # On a steady clock: under use_sim_time a node clock stands still until /clock comes.
        self.create_timer(
            DIAGNOSTIC_PERIOD_S, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    # ---- lifecycle -------------------------------------------------------------------------

    @_spoken
    def on_configure(self, state: Any) -> Any:
        """Load and warm up the model, then create the outputs; all of it or nothing."""
        try:
            self._load(self._settings.config)
        except BaseException:
            self._release()
            raise
        self._state = "inactive"
        return super().on_configure(state)

    def _load(self, config: Config) -> None:
        keep_freed_memory()
        if config.threads:
            torch.set_num_threads(config.threads)
        image_topics.message_type(config.input.transport)  # refuses one that is not installed
        cameras = self._cameras()
        check_topics(cameras)
        self._converter = choose_converter(config.input.converter)
        self._model = model_for(config)
        manifest = self._model.manifest
        self._segmenter = Segmenter(
            self._model.net,
            build_policies(self._model, config),
            config,
            self._model.low,
            kernels=build_kernels(self._model, config),
            cores=LinuxCores() if LinuxCores.known() else None,
        )
        width, height = manifest.training_size
        self._segmenter.warm_up(height, width)
        self._classes = Classes(self, manifest.classes)
        self._outputs = {
            each.name: Outputs(self, manifest.classes, partial(self._warn_of, each), each.name)
            for each in cameras
        }
        self.get_logger().info(
            f"configured: model {manifest.name} on {self._compute_name()}, {self._converter.note}"
        )

    @_spoken
    def on_activate(self, state: Any) -> Any:
        """Enable the outputs, start the worker, and subscribe last."""
        done = super().on_activate(state)
        assert self._segmenter is not None
        assert self._classes is not None
        self._classes.announce()
        assert self._converter is not None
        cameras = self._cameras()
        self._active = Activation(
            self,
            cameras=cameras,
            segmenter=self._segmenter,
            convert=self._converter,
            outputs=self._outputs,
            warn=self._warn_of,
        )
        self._health = self._active.health
        self._active.start(enabled=self._enabled)
        self._state = "active"
        topics = ", ".join(camera.topic for camera in cameras)
        self.get_logger().info(f"active: images from {topics}")
        return done

    @_spoken
    def on_deactivate(self, state: Any) -> Any:
        """Unsubscribe, stop the worker and forget the frames."""
        self.stop()
        self._state = "inactive"
        return super().on_deactivate(state)

    @_spoken
    def on_cleanup(self, state: Any) -> Any:
        """Free the model and the outputs."""
        done = super().on_cleanup(state)
        self._release()
        self._state = "unconfigured"
        return done

    @_spoken
    def on_shutdown(self, state: Any) -> Any:
        """Stop and free everything, from any state."""
        self.stop()
        self._release()
        self._state = "finalized"
        return super().on_shutdown(state)

    @_spoken
    def on_error(self, state: Any) -> Any:
        """Fall back to unconfigured, so that the operator can configure again."""
        self.stop()
        self._release()
        self._state = "unconfigured"
        return super().on_error(state)

    def stop(self) -> None:
        """Unsubscribe and end the worker; harmless when there is none."""
        active, self._active = self._active, None
        if active is None:
            return
        if not active.stop(WORKER_STOP_S):
            self.get_logger().error(
                f"the frame in work takes longer than {WORKER_STOP_S:g} s; its mask is discarded"
            )
        self._failure = active.failure

    def _release(self) -> None:
        for outputs in self._outputs.values():
            outputs.destroy()
        if self._classes is not None:
            self._classes.destroy()
        self._outputs = {}
        self._classes = self._segmenter = self._model = self._converter = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ---- cameras ---------------------------------------------------------------------------

    def _cameras(self) -> tuple[Camera, ...]:
        return find_cameras(self, self._settings.config)

    def _warn_of(self, camera: Camera, subject: str, text: str) -> None:
        """Log a warning, at most once in five seconds per camera and subject."""
        now_ns = time.monotonic_ns()
        last = self._last_log.get((camera, subject))
        if last is None or now_ns - last > REPEAT_LOG_S * 1e9:
            self._last_log[camera, subject] = now_ns
            self.get_logger().warning(f"{camera.name}: {text}" if camera.name else text)

    # ---- services and parameters -------------------------------------------------------------

    def _is_configured(self) -> bool:
        return self._state in {"inactive", "active"}

    def _check(self, config: Config) -> None:
        """Refuse what this model cannot do.

        Raises:
            ConfigError: the model has nothing for the mode.

        """
        if self._segmenter is not None:
            self._segmenter.check(config)

    def _apply(self, config: Config) -> None:
        if self._segmenter is not None:
            self._segmenter.reconfigure(config)
        if self._active is not None:
            self._active.apply()

    def _on_enable(self, request: Any, response: Any) -> Any:
        self._enabled = bool(request.data)
        if self._active is not None:
            self._active.enable(on=self._enabled)
        response.success = True
        response.message = "segmenting" if self._enabled else "off: not subscribed to images"
        return response

    def _on_keyframe(self, request: Any, response: Any) -> Any:  # noqa: ARG002 - Trigger is empty
        response.success = self._state == "active"
        if not response.success or self._segmenter is None:
            response.message = f"the node is {self._state}; activate it first"
            return response
        self._segmenter.ask_full_frame()
        response.message = "the next frame is computed in full"
        return response

    # ---- diagnostics ---------------------------------------------------------------------------

    def _report(self) -> None:
        failure = self._active.failure if self._active else self._failure
        if failure:
            msg = f"the worker thread died:\n{failure}"
            raise RuntimeError(msg)
        watched = [
            (self._situation(camera), self._health.get(camera.name, diagnostics.Health()))
            for camera in self._cameras()
        ]
        alone = not self._settings.config.cameras
        status = diagnostics.report(*watched[0]) if alone else report_cameras(watched)
        message = DiagnosticArray(status=status)
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _situation(self, camera: Camera) -> diagnostics.Situation:
        found = self.get_publishers_info_by_topic(camera.topic)
        config = self._settings.config
        return diagnostics.Situation(
            name=str(self.get_fully_qualified_name()),
            state=self._state,
            enabled=self._enabled,
            topic=camera.topic,
            publishers=tuple(info.topic_type for info in found),
            expected_type=image_topics.TYPES[config.input.transport],
            config=config,
            manifest=self._model.manifest if self._model else None,
            compute=self._compute_name(),
            converter=self._converter.note if self._converter else "",
            dropped=self._active.dropped(camera.name) if self._active else 0,
            now_ns=time.monotonic_ns(),
            camera=camera.name,
        )

    def _compute_name(self) -> str:
        if self._segmenter is None:
            return ""
        compute = self._segmenter.compute
        return f"{compute.device} {str(compute.dtype).removeprefix('torch.')}"


def _start(node: SegmentationNode) -> bool:
    """Configure and activate; False if the node refuses, having said why."""
    success = TransitionCallbackReturn.SUCCESS
    return node.trigger_configure() == success and node.trigger_activate() == success


def _run(node: SegmentationNode, executor: SingleThreadedExecutor, stop: StopRequest) -> int:
    """Start, and spin until somebody asks to stop; the exit status."""
    if node.autostart and not _start(node):
        return 0 if stop.made else 1
    while not stop.made:
        executor.spin_once()
    return 0


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; the exit status is 1 if it could not start."""
    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = SegmentationNode()
    except SegNodeError as err:
        print(f"segmentation_node: {err}", file=sys.stderr)  # noqa: T201 - there is no node to log with
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    woken = node.create_guard_condition(lambda: None)
    try:
        with StopRequest(woken.trigger) as stop:
            return _run(node, executor, stop)
    except ExternalShutdownException:
        return 0
    finally:
        node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
