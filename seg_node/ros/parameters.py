"""ROS parameters, derived from `core.config`: described, ranged, refused with a reason."""

from __future__ import annotations

from array import array
from typing import Any, TYPE_CHECKING

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter

from seg_node.core.config import Config, options
from seg_node.core.types import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.config import Option, Value


def describe(option: Option) -> Any:
    """Return the ParameterDescriptor of one setting."""
    limits = option.limits
    effect = "from the next frame" if limits.live else "when the node is configured"
    unit = f" Unit: {limits.unit}." if limits.unit else ""
    descriptor = ParameterDescriptor(description=f"{limits.doc}{unit} Takes effect {effect}.")
    if limits.choices:
        descriptor.additional_constraints = f"One of: {', '.join(limits.choices)}"
    # An empty list has no type in ROS, so a list of names may not have a fixed one.
    descriptor.dynamic_typing = isinstance(option.value, tuple)
    if limits.low is None or limits.high is None:
        return descriptor
    if isinstance(option.value, float):
        span = FloatingPointRange(from_value=limits.low, to_value=limits.high)
        descriptor.floating_point_range = [span]
    else:
        steps = IntegerRange(from_value=int(limits.low), to_value=int(limits.high), step=1)
        descriptor.integer_range = [steps]
    return descriptor


def declare_autostart(node: Any) -> bool:
    """Declare `autostart`, which only the start of the node reads, and return its value.

    Raises:
        ConfigError: the value given at start is not a boolean.

    """
    text = (
        "Whether the node configures and activates itself at once; false leaves it to a "
        "lifecycle manager. Takes effect at start."
    )
    descriptor = ParameterDescriptor(description=text, read_only=True)
    return bool(_declare(node, "autostart", True, descriptor))


def _declare(node: Any, name: str, value: Value | list[str], descriptor: Any) -> Any:
    """Declare one parameter and return its value, or raise ConfigError in one line."""
    try:
        return node.declare_parameter(name, value, descriptor).value
    except InvalidParameterTypeException as err:
        kind = type(value).__name__
        fix = " (write 1.0, not 1)" if kind == "float" else ""
        msg = f"parameter {name} must be a {kind}{fix}: {err}"
        raise ConfigError(msg) from err
    except InvalidParameterValueException as err:
        msg = f"parameter {name}: {err}"
        raise ConfigError(msg) from err


def _declared(node: Any, option: Option) -> Any:
    """Declare a setting and return its value as settings have it."""
    if not isinstance(option.value, tuple):
        return _declare(node, option.name, option.value, describe(option))
    found = _declare(node, option.name, list(option.value), describe(option))
    if found is None:  # an empty list in a parameter file; make it one for who asks, too
        found = []
        node.set_parameters([Parameter(option.name, value=found)])
    return _value(found)


def _value(found: Any) -> Any:
    """Return the value of a parameter as settings have it: lists as tuples."""
    return tuple(found) if isinstance(found, list | tuple | array) else found


class Parameters:
    """Declares every setting on a node and keeps `config` equal to the parameter server.

    Needs `add_post_set_parameters_callback`, which rclpy of Humble does not have.

    Args:
        node: the node that owns the parameters.
        is_configured: tells whether settings that apply on configure are in use.
        check: called with a config before it is taken; raises ConfigError to refuse it.
        on_change: called with the new config after live settings changed.

    Raises:
        ConfigError: a value given at start may not be used; the text names the fix.

    """

    def __init__(
        self,
        node: Any,
        is_configured: Callable[[], bool],
        check: Callable[[Config], None],
        on_change: Callable[[Config], None],
    ) -> None:
        """Declare all settings and take the values given at start."""
        self._is_configured = is_configured
        self._may = check
        self._on_change = on_change
        defaults = {option.name: option for option in options(Config())}
        given = {name: _declared(node, option) for name, option in defaults.items()}
        self.config = Config().updated(given)
        self._names = frozenset(defaults)
        self._live = frozenset(n for n, o in defaults.items() if o.limits.live)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._apply)

    def _check(self, parameters: list[Any]) -> Any:
        """Refuse values that may not be, and changes that could not take effect now."""
        mine = {p.name: _value(p.value) for p in parameters if p.name in self._names}
        fixed = sorted(set(mine) - self._live)
        if fixed and self._is_configured():
            reason = (
                f"{', '.join(fixed)} applies when the node is configured, and it is configured "
                "now: run 'ros2 lifecycle set NODE deactivate' and '... cleanup' first"
            )
            return SetParametersResult(successful=False, reason=reason)
        try:
            self._may(self.config.updated(mine))
        except ConfigError as err:
            return SetParametersResult(successful=False, reason=str(err))
        return SetParametersResult(successful=True)

    def _apply(self, parameters: list[Any]) -> None:
        mine = {p.name: _value(p.value) for p in parameters if p.name in self._names}
        if mine:
            self.config = self.config.updated(mine)
            self._on_change(self.config)
