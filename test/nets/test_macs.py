"""What every network costs, held to a committed table and to the papers' counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from seg_node.core.costs import dense_macs
from seg_node.nets.build import build_network, NETWORKS

TABLE = json.loads((Path(__file__).parent / "macs.json").read_text())


def macs(network: str, classes: int, height: int, width: int) -> int:
    """Count the MACs of a network without memory for its weights."""
    with torch.device("meta"):
        net = build_network(network, classes)
    return dense_macs(net, height, width)


def test_every_network_is_in_the_table() -> None:
    assert {row["network"] for row in TABLE} == set(NETWORKS)


@pytest.mark.parametrize(
    "row", TABLE, ids=lambda row: f"{row['network']}-{row['width']}x{row['height']}"
)
def test_the_count_is_that_of_the_table(row: dict[str, int]) -> None:
    arguments = {key: value for key, value in row.items() if key != "macs"}
    assert macs(**arguments) == row["macs"]  # type: ignore[arg-type]  # network is text


@pytest.mark.parametrize(
    ("network", "classes", "height", "width", "gmac"),
    [
        # SegBlocks, Cityscapes (papers.md section 3)
        ("swiftnet18", 19, 1024, 2048, 103.6),
        # AR-Seg, CamVid with 12 classes and Cityscapes (papers.md section 2)
        ("pspnet18", 12, 720, 960, 308.6),
        ("bisenet18", 12, 720, 960, 39.1),
        ("pspnet18-cityscapes", 19, 1024, 2048, 540.0),
        ("bisenet18", 19, 1024, 2048, 118.3),
    ],
)
def test_the_count_is_that_of_the_papers(
    network: str, classes: int, height: int, width: int, gmac: float
) -> None:
    assert macs(network, classes, height, width) / 1e9 == pytest.approx(gmac, rel=0.01)
