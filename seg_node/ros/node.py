"""The ROS 2 node: newest image in, mask out; the segmentation itself is `Segmenter.step`.

Threads: the executor only stores images, answers services and reports health; one worker thread
converts, segments and publishes. So parameters and lifecycle stay responsive however slow the
network is, and an image that was overtaken by a newer one costs nothing more.
"""

from __future__ import annotations

from functools import wraps
import gc
import sys
import threading
import time
import traceback
from typing import Any, TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool, Trigger
import torch

from seg_node.core.intake import Intake
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import AllHigh
from seg_node.core.stamps import StampCheck
from seg_node.core.types import ImageError, SegNodeError
from seg_node.data.image_conversion import choose_converter, message_to_frame
from seg_node.nets.build import load_model
from seg_node.ros import diagnostics, messages
from seg_node.ros.parameters import Parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.config import Config
    from seg_node.core.types import Frame, StepResult
    from seg_node.data.image_conversion import ChosenConverter
    from seg_node.nets.build import Model

DIAGNOSTIC_PERIOD_S = 1.0
REPEAT_LOG_S = 5.0
WORKER_STOP_S = 30.0

OUTPUT_QOS = QoSProfile(
    depth=1, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE
)
"""Reliable publishers serve best-effort and reliable readers alike."""
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def _input_qos(overload: str) -> QoSProfile:
    """Best effort, so that every camera matches; deep only if no frame may be skipped."""
    return QoSProfile(
        depth=1 if overload == "newest" else 64,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.BEST_EFFORT,
    )


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
        self.health = diagnostics.Health()
        self._state = "unconfigured"
        self._enabled = True
        self._model: Model | None = None
        self._segmenter: Segmenter | None = None
        self._converter: ChosenConverter | None = None
        self._intake: Intake[tuple[Any, int]] = Intake()
        self._worker: threading.Thread | None = None
        self._failure = ""
        self._image_subscription: Any = None
        self._camera_info_subscription: Any = None
        self._camera_info: Any = None
        self._outputs: dict[str, Any] = {}
        self._last_overlay_ns = 0
        self._last_log: dict[str, int] = {}
        self._stamps = StampCheck()
        self._size: tuple[int, ...] | None = None
        self.declare_parameter("autostart", value=True)
        self._settings = Parameters(self, self._is_configured, self._apply)
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
        """Load and warm up the model, then create the outputs."""
        config = self._settings.config
        if config.threads:
            torch.set_num_threads(config.threads)
        self._converter = choose_converter(config.input.converter)
        self._model = load_model(config.model)
        self._segmenter = Segmenter(self._model.net, AllHigh(), config)
        width, height = self._model.manifest.training_size
        self._segmenter.warm_up(height, width)
        self._create_outputs()
        self._state = "inactive"
        self.get_logger().info(
            f"configured: model {self._model.manifest.name} on {self._compute_name()}, "
            f"{self._converter.note}"
        )
        return super().on_configure(state)

    @_spoken
    def on_activate(self, state: Any) -> Any:
        """Enable the outputs, start the worker, and subscribe last."""
        done = super().on_activate(state)
        self.health = diagnostics.Health()
        self._stamps, self._size = StampCheck(), None
        self._intake = Intake()
        self._intake.keep(self._settings.config.overload)
        self._publish_latched()
        self._worker = threading.Thread(target=self._work, name="segmentation", daemon=True)
        self._worker.start()
        self._subscribe()
        self._state = "active"
        self.get_logger().info(f"active: images from {self._topic()}")
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
        self._unsubscribe()
        self._intake.close()
        if self._worker is not None:
            self._worker.join(WORKER_STOP_S)
            self._worker = None
        self._camera_info = None

    def _release(self) -> None:
        for publisher in self._outputs.values():
            self.destroy_lifecycle_publisher(publisher)
        self._outputs = {}
        self._segmenter = self._model = self._converter = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # ---- input -----------------------------------------------------------------------------

    def _topic(self) -> str:
        """Return the image topic: remapped first, then the transport's suffix."""
        base = str(self.resolve_topic_name("image"))
        if self._settings.config.input.transport == "raw":
            return base
        return base if base.endswith("/compressed") else f"{base}/compressed"

    def _message_type(self) -> Any:
        raw = self._settings.config.input.transport == "raw"
        return Image if raw else CompressedImage

    def _subscribe(self) -> None:
        qos = _input_qos(self._settings.config.overload)
        override = QoSOverridingOptions.with_default_policies()
        self._image_subscription = self.create_subscription(
            self._message_type(),
            self._topic(),
            self._on_image,
            qos,
            qos_overriding_options=override,
        )
        self._camera_info_subscription = self.create_subscription(
            CameraInfo,
            "camera_info",
            self._on_camera_info,
            _input_qos("newest"),
            qos_overriding_options=override,
        )

    def _unsubscribe(self) -> None:
        for subscription in (self._image_subscription, self._camera_info_subscription):
            if subscription is not None:
                self.destroy_subscription(subscription)
        self._image_subscription = self._camera_info_subscription = None

    def _on_image(self, message: Any) -> None:
        now_ns = time.monotonic_ns()
        self.health.arrived(now_ns)
        self._intake.put((message, now_ns))

    def _on_camera_info(self, message: Any) -> None:
        self._camera_info = message

    # ---- services and parameters -------------------------------------------------------------

    def _is_configured(self) -> bool:
        return self._state in {"inactive", "active"}

    def _apply(self, config: Config) -> None:
        if self._segmenter is None:
            return
        deeper = config.overload != self._segmenter.config.overload
        self._segmenter.reconfigure(config)
        self._intake.keep(config.overload)
        if deeper and self._image_subscription is not None:
            self._unsubscribe()
            self._subscribe()

    def _on_enable(self, request: Any, response: Any) -> Any:
        self._enabled = bool(request.data)
        if self._state == "active":
            self._unsubscribe()
            self._intake.clear()
            if self._enabled:
                self._subscribe()
        response.success = True
        response.message = "segmenting" if self._enabled else "off: not subscribed to images"
        return response

    def _on_keyframe(self, request: Any, response: Any) -> Any:  # noqa: ARG002 - Trigger is empty
        response.success = self._state == "active"
        response.message = (
            f"mode {self._settings.config.mode} computes every frame in full"
            if response.success
            else f"the node is {self._state}; activate it first"
        )
        return response

    # ---- work --------------------------------------------------------------------------------

    def _work(self) -> None:
        """Process frames until the intake closes; what kills it is told and ends the node."""
        try:
            while (item := self._intake.take()) is not None:
                self._process(*item)
        except Exception:  # noqa: BLE001 - told, and re-raised by _report in the main thread
            self._failure = traceback.format_exc()

    def _process(self, message: Any, arrived_ns: int) -> None:
        assert self._segmenter is not None
        assert self._converter is not None
        topic = self._topic()
        try:
            frame = message_to_frame(message, topic=topic, camera=topic, convert=self._converter)
        except ImageError as err:
            self.health.refuse(str(err))
            self._say("refused", f"frame dropped: {err}")
            return
        self._watch(frame)
        result = self._segmenter.step(frame)
        self._publish(frame, result)
        now_ns = time.monotonic_ns()
        lag_ns = self.get_clock().now().nanoseconds - frame.stamp_ns
        self.health.done(
            diagnostics.Processed(now_ns, result.report.total_ns, now_ns - arrived_ns, lag_ns)
        )

    def _watch(self, frame: Frame) -> None:
        """Notice a camera that jumps in time or changes size."""
        problem = self._stamps.update(frame.stamp_ns)
        if problem:
            self._say("stamp", problem)
        self.health.jumps = self._stamps.counts["back"]
        size = frame.image.shape
        if self._size is not None and size != self._size:
            self.health.resizes += 1
            self._say("size", f"image size changed from {self._size[:2]} to {size[:2]}")
        self._size = size

    def _say(self, subject: str, text: str) -> None:
        """Warn, at most once in five seconds per subject."""
        now_ns = time.monotonic_ns()
        last = self._last_log.get(subject)
        if last is None or now_ns - last > REPEAT_LOG_S * 1e9:
            self._last_log[subject] = now_ns
            self.get_logger().warning(text)

    # ---- output --------------------------------------------------------------------------------

    def _create_outputs(self) -> None:
        kinds = {
            "mask": Image,
            "mask/compressed": CompressedImage,
            "confidence": Image,
            "overlay": Image,
            "age": Image,
            "plan": Image,
            "camera_info": CameraInfo,
            "stats": DiagnosticArray,
        }
        for name, kind in kinds.items():
            self._outputs[name] = self.create_lifecycle_publisher(
                kind,
                f"~/{name}",
                OUTPUT_QOS,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        assert self._model is not None
        legend = messages.make_legend(self._model.manifest.classes)
        self._outputs["legend"] = self.create_lifecycle_publisher(
            type(legend), "~/legend", LATCHED_QOS
        )
        try:
            info = messages.make_label_info(self._now_header(), self._model.manifest.classes)
        except ImportError:
            self.get_logger().info("vision_msgs is not installed: no ~/label_info, see ~/legend")
        else:
            self._outputs["label_info"] = self.create_lifecycle_publisher(
                type(info), "~/label_info", LATCHED_QOS
            )

    def _now_header(self) -> Any:
        header = messages.Header()
        header.stamp = self.get_clock().now().to_msg()
        return header

    def _publish_latched(self) -> None:
        assert self._model is not None
        classes = self._model.manifest.classes
        self._outputs["legend"].publish(messages.make_legend(classes))
        if "label_info" in self._outputs:
            info = messages.make_label_info(self._now_header(), classes)
            self._outputs["label_info"].publish(info)

    def _publish(self, frame: Frame, result: StepResult) -> None:
        """Publish mask and stats always, everything else only if somebody listens."""
        header = messages.make_header(frame)
        out = self._outputs
        out["mask"].publish(messages.make_image(header, result.labels, "mono8"))
        extra = {"dropped": self._intake.dropped, "refused": self.health.refused}
        out["stats"].publish(messages.make_stats(header, self._name(), result, extra))
        if self._wanted("mask/compressed"):
            out["mask/compressed"].publish(messages.make_png(header, result.labels))
        planes = {
            "confidence": (result.confidence, "mono8"),
            "age": (result.age_ms, "mono16"),
            "plan": (result.plan.grid, "mono8"),
        }
        for name, (pixels, encoding) in planes.items():
            if self._wanted(name):
                out[name].publish(messages.make_image(header, pixels, encoding))
        self._publish_overlay(header, frame, result)
        self._publish_camera_info(header, frame)

    def _publish_overlay(self, header: Any, frame: Frame, result: StepResult) -> None:
        publish = self._settings.config.publish
        now_ns = time.monotonic_ns()
        period_ns = 1e9 / publish.overlay_rate_hz if publish.overlay_rate_hz else 0.0
        if not self._wanted("overlay") or now_ns - self._last_overlay_ns < period_ns:
            return
        assert self._model is not None
        self._last_overlay_ns = now_ns
        colors = messages.color_table(self._model.manifest.classes)
        pixels = messages.overlay(frame.image, result.labels, colors, publish.overlay_opacity)
        self._outputs["overlay"].publish(messages.make_image(header, pixels, "rgb8"))

    def _publish_camera_info(self, header: Any, frame: Frame) -> None:
        """Pass the newest calibration on, with the image's header; masks have the image's size."""
        info = self._camera_info
        if info is None or not self._wanted("camera_info"):
            return
        if (info.height, info.width) != frame.image.shape[:2]:
            self._say(
                "camera_info", "camera_info is of another size than the image: not passed on"
            )
            return
        info.header = header
        self._outputs["camera_info"].publish(info)

    def _wanted(self, name: str) -> bool:
        return bool(self._outputs[name].get_subscription_count())

    # ---- diagnostics ---------------------------------------------------------------------------

    def _report(self) -> None:
        if self._failure:
            msg = f"the worker thread died:\n{self._failure}"
            raise RuntimeError(msg)
        topic = self._topic()
        found = self.get_publishers_info_by_topic(topic)
        kind = "Image" if self._message_type() is Image else "CompressedImage"
        situation = diagnostics.Situation(
            name=self._name(),
            state=self._state,
            enabled=self._enabled,
            topic=topic,
            publishers=tuple(info.topic_type for info in found),
            expected_type=f"sensor_msgs/msg/{kind}",
            config=self._settings.config,
            manifest=self._model.manifest if self._model else None,
            compute=self._compute_name(),
            converter=self._converter.note if self._converter else "",
            dropped=self._intake.dropped,
            now_ns=time.monotonic_ns(),
        )
        status = diagnostics.report(situation, self.health)
        message = DiagnosticArray(status=status)
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _name(self) -> str:
        return str(self.get_fully_qualified_name())

    def _compute_name(self) -> str:
        if self._segmenter is None:
            return ""
        compute = self._segmenter.compute
        return f"{compute.device} {str(compute.dtype).removeprefix('torch.')}"


def _start(node: SegmentationNode) -> bool:
    """Configure and activate; False if the node refuses, having said why."""
    success = TransitionCallbackReturn.SUCCESS
    return node.trigger_configure() == success and node.trigger_activate() == success


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted; the exit status is 1 if it could not start."""
    rclpy.init(args=args)
    try:
        node = SegmentationNode()
    except SegNodeError as err:
        print(f"segmentation_node: {err}", file=sys.stderr)  # noqa: T201 - there is no node to log with
        rclpy.try_shutdown()
        return 1
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        if node.get_parameter("autostart").value and not _start(node):
            return 1
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.stop()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
