"""What exporting needs beyond the package's own requirements, and what to do where it lacks."""

from __future__ import annotations

from importlib.util import find_spec

from seg_node.core.types import ConfigError

NEEDED = ("onnx", "onnxruntime", "onnxscript")
"""Packages of the extra `export`."""


def check_packages(names: tuple[str, ...] = NEEDED) -> None:
    """Refuse to go on without the packages that exporting needs.

    Raises:
        ConfigError: one is missing; the text says how to install it.

    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        msg = f"exporting needs {', '.join(missing)}: pip install 'seg_node[export]'"
        raise ConfigError(msg)
