"""A bag with masks is evaluated by the command like any labelled data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from seg_node.cli import main
from seg_node.data.bag_writer import BagWriter
from seg_node.data.street import Street

if TYPE_CHECKING:
    from pathlib import Path


def test_command_scores_a_bag_by_its_mask_topic(tmp_path: Path, random_models: Path) -> None:
    """Two of three images have a mask: those are scored, and the third is told."""
    street = Street(3, 96, 64)
    with BagWriter(tmp_path / "bag") as bag:
        for index in range(3):
            image, labels = street.picture(index)
            stamp_ns = 10**15 + index * 10**8
            for topic in ("/left/image", "/right/image"):
                bag.write_image(topic, image, stamp_ns=stamp_ns, frame_id="front")
            if index:
                bag.write_image("/mask", labels, stamp_ns=stamp_ns, frame_id="front")
    model = str(random_models / "swiftnet18-half.json")
    arguments = ["evaluate", f"bag:{tmp_path / 'bag'}", "--model", model, "--device", "cpu"]
    topics = ["--topic", "/left/image", "--mask-topic", "/mask"]
    file = tmp_path / "scores.json"
    assert main([*arguments, *topics, "--json", str(file)]) == 0
    results = json.loads(file.read_text())
    entry = results["modes"]["dense"]
    assert entry["labelled_frames"] == 2
    assert 0 <= entry["miou"] <= 1
    assert "1 of 3 images on /left/image have no mask" in results["source"]["shortfall"]
    assert main(arguments) == 1, "without a choice between the two cameras"
