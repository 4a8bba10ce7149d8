"""Imports point one way, and ROS stays in its folder (docs/architecture.md).

Every import counts: at module level, inside functions and under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
from pathlib import Path
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = "seg_node"
ROOT = Path(__file__).resolve().parents[1]

ARROWS: dict[str, tuple[str, ...]] = {
    "loops": (),
    "core": ("loops",),
    "kernels": ("core", "loops.compiling"),
    "nets": ("core", "kernels.build"),
    "data": ("core",),
    "train": ("core", "nets", "data"),
    "eval": ("core", "nets", "data"),
    "export": ("core", "nets", "data"),
    "ros": (
        "core",
        "nets.build",
        "nets.manifest",
        "data.codec",
        "data.compressed_images",
        "data.converters",
        "data.core_use",
        "data.image_conversion",
        "data.raw_images",
        "data.video",
    ),
}
"""What each folder may import of ours, besides itself; a name stands for all below it."""

TOP = {"cli", "demo", "__main__"}
"""Modules and folders directly in the package that may import everything of ours."""

ROS = re.compile(r"rclpy|rosidl_\w+|ament_index_python|launch(_\w+)?|\w+_(msgs|srvs|interfaces)")
"""First part of the modules that only `seg_node/ros` may import."""


def module_exists(root: Path, name: str) -> bool:
    """Return whether the dotted `name` is a module or folder of the source tree at `root`."""
    path = root.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path, root: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute module name) for every import in one file."""
    parent = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            anchor = parent[: len(parent) - node.level + 1] if node.level else ()
            base = ".".join((*anchor, *([node.module] if node.module else [])))
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield node.lineno, name if module_exists(root, name) else base


def may_import(folder: str, target: str) -> bool:
    """Return whether a module in `folder` may import `target` (both without the package)."""
    if folder in TOP:
        return True
    allowed = (folder, *ARROWS.get(folder, ()))
    return any(target == name or target.startswith(f"{name}.") for name in allowed)


def violations(root: Path) -> list[str]:
    """Return one line for every import below `root`/seg_node that breaks the rules."""
    found = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        inside = path.relative_to(root / PACKAGE)
        folder = inside.parts[0].removesuffix(".py")
        for line, name in imports(path, root):
            where = f"{inside}:{line} imports {name}"
            if ROS.fullmatch(name.partition(".")[0]) and folder != "ros":
                found.append(f"{where}: ROS belongs in {PACKAGE}/ros")
            target = name.removeprefix(f"{PACKAGE}.")
            if target != name and not may_import(folder, target):
                found.append(f"{where}: {folder} may not")
    return found


def test_imports_point_one_way() -> None:
    """No module of the package breaks an arrow or touches ROS outside its folder."""
    assert violations(ROOT) == []


def test_every_folder_has_its_arrows() -> None:
    """A new folder or top-level module needs a decision on what it may import."""
    entries = {p.name for p in (ROOT / PACKAGE).iterdir() if (p / "__init__.py").is_file()}
    modules = {p.stem for p in (ROOT / PACKAGE).glob("*.py")} - {"__init__"}
    assert (entries | modules) - TOP <= set(ARROWS)


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("core/a.py", "from seg_node.nets import build"),
        ("core/a.py", "from seg_node.kernels import build"),
        ("kernels/a.py", "from seg_node.nets import build"),
        ("nets/a.py", "from seg_node.kernels.convolution import convolve"),
        ("ros/a.py", "from seg_node.kernels import build"),
        ("core/a.py", "def f():\n    import seg_node.nets.build"),
        ("core/a.py", "from seg_node import train"),
        ("core/a.py", "from ..nets import build"),
        ("core/a.py", "if TYPE_CHECKING:\n    from seg_node.nets.build import anything"),
        ("data/a.py", "from seg_node.nets.build import anything"),
        ("train/a.py", "import seg_node.ros.node"),
        ("eval/a.py", "from seg_node.train import losses"),
        ("ros/a.py", "from seg_node.nets import swiftnet"),
        ("ros/a.py", "from seg_node.data import bag"),
        ("ros/a.py", "from seg_node import cli"),
        ("core/a.py", "import rclpy"),
        ("data/a.py", "def f():\n    from sensor_msgs.msg import Image"),
        ("cli.py", "from std_srvs.srv import Trigger"),
        ("__init__.py", "from seg_node.core import types"),
    ],
)
def test_planted_violation_is_found(tmp_path: Path, file: str, code: str) -> None:
    """Each planted import gives exactly one violation, with its place."""
    plant(tmp_path, file, code)
    (found,) = violations(tmp_path)
    assert found.startswith(f"{file}:")


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("core/a.py", "from seg_node.core.types import Frame"),
        ("core/a.py", "from . import types"),
        ("core/a.py", "from seg_node import __version__"),
        ("data/a.py", "from rosbags.typesys import Stores"),
        ("nets/a.py", "from seg_node.kernels.build import choose_kernels"),
        ("train/a.py", "from seg_node.nets import build\nfrom seg_node.data import video"),
        ("ros/a.py", "import rclpy\nfrom seg_node.nets.build import load_model"),
        ("ros/a.py", "from seg_node.data.image_conversion import message_to_frame"),
        ("cli.py", "def f():\n    from seg_node.ros import node"),
    ],
)
def test_allowed_imports_pass(tmp_path: Path, file: str, code: str) -> None:
    """The walker does not cry wolf."""
    plant(tmp_path, file, code)
    assert violations(tmp_path) == []


def plant(root: Path, file: str, code: str) -> None:
    """Write a small tree with the real folder names and one file with the code to judge."""
    modules = ("core/types", "nets/build", "nets/swiftnet", "data/video", "data/bag")
    more = ("data/image_conversion", "train/losses", "ros/node", "cli")
    kernels = ("kernels/build", "kernels/convolution")
    for name in (*modules, *more, *kernels, file.removesuffix(".py")):
        path = root / PACKAGE / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
    (root / PACKAGE / file).write_text(code, encoding="utf-8")
