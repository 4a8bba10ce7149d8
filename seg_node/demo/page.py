"""The page that a demo leaves: one file that opens anywhere, without a network."""

from __future__ import annotations

import base64
from typing import Any, TYPE_CHECKING

import jinja2

from seg_node.demo.template import TEMPLATE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seg_node.core.types import ClassInfo

VIEWS = {
    "image": "as it was played",
    "mask": "class colours over the image",
    "plan": "what was computed in this frame is bright, the rest is dark",
    "age": "how old the newest full computation of each block is",
}
"""What each picture of a frame shows."""
_LEVELS = ("ok", "warning", "error", "stale")


def render_page(
    results: dict[str, Any], classes: Sequence[ClassInfo], frames: Sequence[Mapping[str, bytes]]
) -> str:
    """Return the page as HTML; the video is named as a file beside it.

    Args:
        results: content of `results.json` of a demo.
        classes: classes of the masks, in label order.
        frames: pictures of some frames of the clip, JPEG files by what they show: `image`,
            `mask`, `plan` or `age`.

    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE)
    ((mode, entry),) = results["modes"].items()
    return template.render(
        results=results,
        demo=results["demo"],
        source=results["source"],
        mode=mode,
        entry=entry,
        tiles=_tiles(results["demo"], entry),
        iou=list(zip(results["classes"], entry["class_iou"] or [], strict=False)),
        classes=[{"name": c.name, "color": "rgb({},{},{})".format(*c.color)} for c in classes],
        levels=_LEVELS,
        shown=list(dict.fromkeys(view for frame in frames for view in frame)),
        frames=[
            {view: base64.b64encode(picture).decode("ascii") for view, picture in frame.items()}
            for frame in frames
        ],
        views=VIEWS,
    )


def _tiles(demo: dict[str, Any], entry: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the headline: value, unit or context, what it is."""
    share = demo["returned"] / demo["played"] if demo["played"] else 0.0
    tiles = [
        (f"{share:.0%}", f"{demo['returned']} of {demo['played']}", "frames came back"),
        (_number(demo["returned_hz"], 1), "Hz", "masks"),
    ]
    latency = demo["latency_ms"]
    if latency:
        tiles.append((f"{latency['p50']:.0f}", "ms", f"latency (p95 {latency['p95']:.0f} ms)"))
    if entry["ms"]:
        tiles.append((f"{entry['ms']['p50']:.0f}", "ms", "step of the network"))
    if entry["gmac_saving"]:
        tiles.append((f"{entry['gmac_saving']:.0%}", "", "of the computation saved"))
        tiles.append((f"{entry['age_ms']['max']:.0f}", "ms", "oldest computation in a mask"))
    if entry["miou"] is not None:
        frames = f"mIoU of {entry['labelled_frames']} frames"
        tiles.append((f"{entry['miou']:.3f}", "", frames))
    return tiles


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
