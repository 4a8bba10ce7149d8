"""Presets and the rviz view: they name what exists, and the node starts with each of them."""

from __future__ import annotations

from pathlib import Path
import re
from typing import Any, TYPE_CHECKING

import pytest
from ruamel.yaml import YAML

from seg_node.core.config import Config, options
from seg_node.ros.presets import default_preset
from test.ros.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from seg_node.core.config import Value
    from test.ros.rig import Client, NodeProcess

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
PRESETS = sorted(CONFIG.glob("*.yaml"))
NODE_ONLY = {"autostart", "use_sim_time"}
"""Parameters of the node that are not settings of the pipeline."""


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Yield (dotted name, value) of nested parameters."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, as_setting(value)


def as_setting(value: Any) -> Any:
    """Return a parameter's value as settings have it: lists as tuples."""
    return tuple(value) if isinstance(value, list) else value


def settings(path: Path) -> dict[str, Value]:
    """Return the settings of a preset by dotted name; it must be for every node, `/**`."""
    content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    assert list(content) == ["/**"]
    assert list(content["/**"]) == ["ros__parameters"]
    return dict(flat(content["/**"]["ros__parameters"]))


def test_presets_are_there() -> None:
    assert {path.stem for path in PRESETS} == {
        *("default", "quality", "balanced", "economy"),
        *("cpu", "full_hd", "gpu"),
    }


def test_default_preset_is_up_to_date() -> None:
    """config/default.yaml tells every setting with its present meaning and default."""
    text = (CONFIG / "default.yaml").read_text(encoding="utf-8")
    assert text == default_preset(), "run: python -m seg_node.ros.presets > config/default.yaml"
    given = settings(CONFIG / "default.yaml")
    assert {n: v for n, v in given.items() if n not in NODE_ONLY} == {
        option.name: option.value for option in options(Config())
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_fits_the_settings(path: Path) -> None:
    """Names exist, values are in range and of the exact type: ROS turns no int into a float."""
    given = settings(path)
    config = Config().updated({n: v for n, v in given.items() if n not in NODE_ONLY})
    types = {option.name: type(option.value) for option in options(config)}
    assert {n: type(v) for n, v in given.items() if n in types} == {
        n: types[n] for n in given if n in types
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_preset_is_explained(path: Path) -> None:
    """It opens with what it is for, and how to use it."""
    text = path.read_text(encoding="utf-8")
    head = text[: text.index("/**:")]
    assert head.startswith("# ")
    used = re.search(r"ros2 launch seg_node segmentation\.launch\.py params_file:=(\S+)", head)
    assert used is not None
    assert used[1] in {path.stem, "my.yaml"}


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_node_starts_with_the_preset(
    path: Path, client: Client, start_node: Callable[..., NodeProcess]
) -> None:
    """A node with the shipped models takes the file and its values; without a GPU it says so."""
    import torch  # noqa: PLC0415 - collecting loads no torch

    given = settings(path)
    name = f"/preset_{path.stem}"
    arguments = ("--params-file", str(path), "-r", f"__ns:={name}")
    process = start_node(*arguments, SEG_NODE_MODELS=str(ROOT / "models"))
    if given.get("device") == "cuda" and not torch.cuda.is_available():
        assert process.wait() == 1
        assert "torch sees 0 GPUs; use cpu" in process.text
        return
    rig = Rig(client, lambda: process, f"{name}/segmentation", f"{name}/image", process)
    try:
        rig.bring_to("active")
        assert {key: as_setting(rig.get(key)) for key in given} == given
    finally:
        rig.close()
    assert process.end() == 0


def displays() -> dict[str, dict[str, Any]]:
    """Return the displays of the rviz view by topic."""
    view = YAML(typ="safe").load((CONFIG / "segmentation.rviz").read_text(encoding="utf-8"))
    found = view["Visualization Manager"]["Displays"]
    return {item["Topic"]["Value"]: item for item in found}


def test_rviz_shows_what_a_person_reads() -> None:
    """What needs no explanation is shown; the rest waits for a click, and is not computed."""
    shown = {topic for topic, item in displays().items() if item["Enabled"]}
    assert shown == {f"/segmentation/{name}" for name in ("overlay", "plan/image", "age/image")}
    names = [item["Name"] for item in displays().values()]
    assert len(set(names)) == len(names)


def test_rviz_shows_what_the_node_reads_or_publishes() -> None:
    """Each display is of one of its image topics, with a QoS that never holds the node back."""
    pytest.importorskip("rclpy")
    from seg_node.ros.outputs import KINDS  # noqa: PLC0415 - needs ROS

    images = {f"/segmentation/{name}" for name, kind in KINDS.items() if kind.__name__ == "Image"}
    for topic, item in displays().items():
        assert topic in images | {"/image"}
        assert item["Class"] == "rviz_default_plugins/Image"
        assert item["Value"] == item["Enabled"]
        assert item["Topic"]["Reliability Policy"] == "Best Effort"
        assert item["Topic"]["Durability Policy"] == "Volatile"
        assert item["Topic"]["Depth"] == 1
