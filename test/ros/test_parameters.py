"""Settings as ROS parameters, on a stand-in for the node: no DDS."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy")

from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
)
from rclpy.parameter import Parameter

from seg_node.core.config import Config, options
from seg_node.core.types import ConfigError
from seg_node.ros.parameters import declare_autostart, describe, Parameters

OPTIONS = {option.name: option for option in options(Config())}


class StandIn:
    """The methods of a node that `Parameters` uses.

    Args:
        given: values given at start, by name; an exception is raised instead.

    """

    def __init__(self, **given: Any) -> None:
        """Declare nothing yet."""
        self.given = {name.replace("__", "."): value for name, value in given.items()}
        self.descriptors: dict[str, Any] = {}
        self.set_at_start: list[Any] = []
        self.check: Any = None
        self.apply: Any = None

    def declare_parameter(self, name: str, value: Any, descriptor: Any) -> Any:
        """Return the value given at start, else the default."""
        self.descriptors[name] = descriptor
        found = self.given.get(name, value)
        if isinstance(found, Exception):
            raise found
        return SimpleNamespace(value=found)

    def set_parameters(self, parameters: list[Any]) -> None:
        """Take values that replace those given at start."""
        self.set_at_start += parameters

    def add_on_set_parameters_callback(self, callback: Any) -> None:
        """Take the callback that may refuse."""
        self.check = callback

    def add_post_set_parameters_callback(self, callback: Any) -> None:
        """Take the callback that applies."""
        self.apply = callback

    def set(self, **values: Any) -> str:
        """Set as rclpy does; returns the reason of a refusal."""
        parameters = [Parameter(name.replace("__", "."), value=v) for name, v in values.items()]
        result = self.check(parameters)
        if result.successful:
            self.apply(parameters)
        return str(result.reason)


def test_float_setting_has_a_float_range_and_its_unit() -> None:
    descriptor = describe(OPTIONS["input.stale_s"])
    (span,) = descriptor.floating_point_range
    assert (span.from_value, span.to_value) == (0.05, 3600.0)
    assert "Unit: s." in descriptor.description
    assert "from the next frame" in descriptor.description


def test_integer_setting_has_an_integer_range() -> None:
    descriptor = describe(OPTIONS["block_size"])
    (span,) = descriptor.integer_range
    assert (span.from_value, span.to_value) == (0, 512)
    assert "when the node is configured" in descriptor.description


def test_choice_lists_its_values() -> None:
    descriptor = describe(OPTIONS["overload"])
    assert descriptor.additional_constraints == "One of: newest, every"
    assert not descriptor.floating_point_range
    assert not descriptor.integer_range


def test_every_setting_is_declared() -> None:
    node = StandIn()
    assert Parameters(node, lambda: False, lambda _: None, lambda _: None).config == Config()
    assert set(node.descriptors) == set(OPTIONS)


def test_values_given_at_start_are_taken() -> None:
    node = StandIn(input__scale=0.5, overload="every")
    config = Parameters(node, lambda: False, lambda _: None, lambda _: None).config
    assert (config.input.scale, config.overload) == (0.5, "every")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            InvalidParameterTypeException(Parameter("input.scale", value=1), "DOUBLE"),
            "parameter input.scale must be a float (write 1.0, not 1)",
        ),
        (
            InvalidParameterValueException("input.scale", 7.0, "out of range"),
            "parameter input.scale",
        ),
    ],
)
def test_refusal_of_rclpy_at_start_becomes_one_line(error: Exception, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Parameters(StandIn(input__scale=error), lambda: False, lambda _: None, lambda _: None)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_choice_given_wrong_at_start_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose one of dense"):
        Parameters(StandIn(mode="fast"), lambda: False, lambda _: None, lambda _: None)


def test_live_change_is_handed_on() -> None:
    node, seen = StandIn(), list[Config]()
    parameters = Parameters(node, lambda: True, lambda _: None, seen.append)
    assert node.set(input__scale=0.5) == ""
    assert [config.input.scale for config in seen] == [0.5]
    assert parameters.config == seen[0]


@pytest.mark.parametrize("name", [n for n, o in OPTIONS.items() if not o.limits.live])
def test_configure_only_setting_is_refused_while_configured(name: str) -> None:
    """With what to do, and whatever the value."""
    node, seen = StandIn(), list[Config]()
    Parameters(node, lambda: True, lambda _: None, seen.append)
    parameter = Parameter(name, value=OPTIONS[name].value)
    result = node.check([parameter])
    assert not result.successful
    assert name in result.reason
    assert "cleanup" in result.reason
    assert seen == []


def test_configure_only_setting_is_accepted_before_configure() -> None:
    node = StandIn()
    parameters = Parameters(node, lambda: False, lambda _: None, lambda _: None)
    assert node.set(block_size=32) == ""
    assert parameters.config.block_size == 32


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("input.scale", 0.04, "allowed are 0.05 to 1.0"),
        ("input.scale", float("nan"), "allowed are 0.05 to 1.0"),
        ("block_size", 40, "multiple of 32"),
        ("device", "tpu", "auto, cpu, cuda, cuda:N or tensorrt"),
        ("overload", "oldest", "newest, every"),
        ("cameras", ["front", "front"], "'front' twice"),
        ("cameras", "front", "expected a list of names"),
        ("cameras", [1], "expected a list of names"),
        ("cameras", None, "expected a list of names"),
    ],
)
def test_refusal_names_what_is_allowed(name: str, value: Any, words: str) -> None:
    node = StandIn()
    parameters = Parameters(node, lambda: False, lambda _: None, lambda _: None)
    result = node.check([Parameter(name, value=value)])
    assert not result.successful
    assert name in result.reason
    assert words in result.reason
    assert parameters.config == Config()


@pytest.mark.parametrize(("given", "expected"), [(["a", "b"], ("a", "b")), (None, ())])
def test_names_are_taken_as_a_file_gives_them(
    given: list[str] | None, expected: tuple[str, ...]
) -> None:
    """An empty list in a file has no type and arrives as no value: it becomes an empty list."""
    node = StandIn(cameras=given)
    config = Parameters(node, lambda: False, lambda _: None, lambda _: None).config
    assert config.cameras == expected
    assert [p.value for p in node.set_at_start] == ([] if given else [[]])


def test_names_may_become_none_again() -> None:
    """Over ROS an empty list comes as a list of bytes."""
    node = StandIn()
    parameters = Parameters(node, lambda: False, lambda _: None, lambda _: None)
    assert node.set(cameras=["front"]) == ""
    assert list(parameters.config.cameras) == ["front"]
    assert node.set(cameras=[]) == ""
    assert list(parameters.config.cameras) == []
    assert node.descriptors["cameras"].dynamic_typing
    assert not node.descriptors["model"].dynamic_typing


def test_parameters_of_others_are_none_of_ours() -> None:
    """`use_sim_time` and QoS overrides live on the same node."""
    node, seen = StandIn(), list[Config]()
    Parameters(node, lambda: True, lambda _: None, seen.append)
    assert node.set(use_sim_time=True) == ""
    assert seen == []


def test_autostart_is_read_only_and_described() -> None:
    node = StandIn(autostart=False)
    assert declare_autostart(node) is False
    assert node.descriptors["autostart"].read_only
    assert "lifecycle manager" in node.descriptors["autostart"].description


def test_autostart_of_another_type_is_refused() -> None:
    error = InvalidParameterTypeException(Parameter("autostart", value=1), "BOOL")
    with pytest.raises(ConfigError, match="autostart must be a bool"):
        declare_autostart(StandIn(autostart=error))
