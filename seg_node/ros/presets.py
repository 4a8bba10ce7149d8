"""The preset config/default.yaml, written from `core.config`; imports no ROS.

`python -m seg_node.ros.presets > config/default.yaml` renews it after a change of the settings.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from seg_node.core.config import Config, options

if TYPE_CHECKING:
    from seg_node.core.config import Limits, Option, Value

WIDTH = 99
HEAD = """\
# All parameters of the node, with their meaning, at their defaults.
# Written by `python -m seg_node.ros.presets`; a test compares.
#
# Copy it, keep what you change, and pass it on:
#   ros2 launch seg_node segmentation.launch.py params_file:=my.yaml
# A number with a dot is a float and needs its dot: 1.0, not 1.

/**:
  ros__parameters:
    # Whether the node configures and activates itself, without a lifecycle manager.
    autostart: true
"""


def default_preset() -> str:
    """Return the text of config/default.yaml."""
    lines = [HEAD.rstrip("\n")]
    stage = ""
    for option in options(Config()):
        outer, _, leaf = option.name.rpartition(".")
        if outer != stage:
            stage = outer
            lines.append(f"    {stage}:")
        indent = " " * (6 if stage else 4)
        lines += textwrap.wrap(
            meaning(option),
            WIDTH,
            initial_indent=f"{indent}# ",
            subsequent_indent=f"{indent}# ",
            break_on_hyphens=False,
        )
        lines.append(f"{indent}{leaf}: {yaml_value(option.value)}")
    return "\n".join(lines) + "\n"


def meaning(option: Option) -> str:
    """Return what a setting means, may be, and when a change applies, in one line."""
    when = "Live." if option.limits.live else "Applies on configure."
    parts = [option.limits.doc, allowed(option.limits), when]
    return " ".join(part for part in parts if part)


def allowed(limits: Limits) -> str:
    """Return what values a setting may have; empty if it is open."""
    if limits.choices:
        return f"One of: {', '.join(limits.choices)}."
    if limits.low is None or limits.high is None:
        return ""
    unit = f" {limits.unit}" if limits.unit else ""
    return f"From {limits.low:g} to {limits.high:g}{unit}."


def yaml_value(value: Value) -> str:
    """Return a value as YAML that ROS reads in the same type: floats have a dot."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(value)}]"
    return str(value)


if __name__ == "__main__":
    print(default_preset(), end="")  # noqa: T201 - the text is the result
