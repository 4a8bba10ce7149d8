"""A batch is a function of seed and step, whoever computes which part of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from seg_node.core.types import ConfigError
from seg_node.data.street import Street
from seg_node.train.augment import Picture
from seg_node.train.batches import (
    Batch,
    BatchMaker,
    halve,
    label_counts,
    Pools,
    render_streets,
    shown_classes,
    STREET_FRAMES,
    STREET_SEED_OFFSET,
    STREET_TRIES,
)
from seg_node.train.distributed import Share
from test.train.samples import halves, TINY


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_a_batch_depends_on_seed_and_step_only() -> None:
    make, again = BatchMaker(Pools(halves()), TINY), BatchMaker(Pools(halves()), TINY)
    assert equal(make(4), again(4))
    assert not equal(make(4), make(5))
    assert not equal(make(4), BatchMaker(Pools(halves()), replace(TINY, seed=1))(4))


def test_two_processes_see_together_what_one_sees() -> None:
    config = replace(TINY, batch=5)
    whole = BatchMaker(Pools(halves()), config)(3)
    parts = [BatchMaker(Pools(halves()), config, share=Share(r, 2))(3) for r in (0, 1)]
    assert torch.equal(parts[0].images, whole.images[0::2])
    assert torch.equal(parts[1].labels, whole.labels[1::2])


def test_running_gives_the_same_batches_in_order() -> None:
    make = BatchMaker(Pools(halves()), TINY)
    ran = list(make.run(2, 6))
    assert [step for step, _ in ran] == [2, 3, 4, 5]
    assert all(equal(batch, make(step)) for step, batch in ran)
    assert list(make.run(3, 3)) == []


def test_every_sample_is_seen_once_an_epoch() -> None:
    make = BatchMaker(Pools(halves(5)), TINY)
    assert sorted(make.index(i) for i in range(5)) == [0, 1, 2, 3, 4]
    assert sorted(make.index(i) for i in range(5, 10)) == [0, 1, 2, 3, 4]


def test_low_steps_halve_the_images_and_keep_the_labels() -> None:
    make = BatchMaker(Pools(halves()), replace(TINY, low_share=0.5))
    made = [make(step) for step in range(20)]
    lows = [batch for batch in made if batch.low]
    assert 3 < len(lows) < 17
    assert all(batch.images.shape == (2, 3, 32, 32) for batch in lows)
    assert all(batch.labels.shape == (2, 64, 64) for batch in made)


def test_pasting_changes_labelled_samples_alone() -> None:
    thing = halves(4)
    for index, picture in enumerate(thing):
        picture.labels[10:14, 10:14] = 2 + index
    config = replace(TINY, paste=1.0, scale_min=1.0, scale_max=1.0, batch=8)
    mixed, plain = (
        BatchMaker(Pools(thing), config),
        BatchMaker(Pools(thing), replace(config, paste=0.0)),
    )
    classes = [[len(image.unique()) for image in make(0).labels] for make in (mixed, plain)]
    assert sum(classes[0]) > sum(classes[1])
    loose = [replace(p, labels=p.labels * 0 + 255) for p in thing]
    alone = replace(config, unlabelled_share=1.0)
    assert (BatchMaker(Pools(thing, unlabelled=loose), alone)(0).labels == 255).all()


def test_halving_averages_two_by_two() -> None:
    image = torch.tensor([[0, 1, 9, 9], [3, 4, 9, 13]], dtype=torch.uint8)[None, None]
    assert halve(image).tolist() == [[[[2, 10]]]]


def test_pools_are_mixed_in_their_shares() -> None:
    config = replace(TINY, batch=40, street_share=0.3, unlabelled_share=0.2)
    loose = [replace(p, labels=p.labels * 0 + 255) for p in halves(soft=True)]
    make = BatchMaker(Pools(halves(), render_streets(2, 0), loose, 11), config)
    batch = make(0)
    void = (batch.labels == 255).flatten(1).all(1)
    street = (batch.labels.flatten(1) < 255).any(1) & (batch.labels.flatten(1) % 255 > 1).any(1)
    assert 2 <= int(void.sum()) <= 16
    assert 5 <= int(street.sum()) <= 22
    assert batch.soft is not None
    taught = batch.soft.flatten(1).sum(1) > 0
    assert torch.equal(taught, void)


def test_classes_are_counted_without_void() -> None:
    counts = label_counts(halves(2), 4)
    assert counts.tolist() == [2 * 80 * 48 + 1, 2 * 80 * 48 + 1, 1, 1]


def test_streets_are_frames_that_show_much_and_depend_on_the_seed() -> None:
    first, again, other = render_streets(3, 0), render_streets(3, 0), render_streets(3, 1)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].image, other[0].image)
    frames = np.random.default_rng((0, 2)).integers(STREET_FRAMES, size=(3, STREET_TRIES))
    street = Street(STREET_SEED_OFFSET)
    tried = [shown_classes(Picture(*street.picture(int(frame)))) for frame in frames[0]]
    assert shown_classes(first[0]) == max(tried)


def test_more_processes_than_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="batch is 2 for 3 processes; give one each"):
        BatchMaker(Pools(halves()), TINY, Share(0, 3))
