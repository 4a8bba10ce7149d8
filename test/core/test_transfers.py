"""Bytes to the device and back: a CPU copies none; a GPU is looked at where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seg_node.core.transfers import to_host, Uploads

CPU = torch.device("cpu")
IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def test_an_image_becomes_a_batch_of_planes() -> None:
    sent = Uploads(CPU).send(IMAGE)
    assert sent.shape == (1, 3, 4, 5)
    assert sent.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(sent[0].permute(1, 2, 0).numpy(), IMAGE)


def test_a_cpu_copies_nothing() -> None:
    image = IMAGE.copy()
    assert Uploads(CPU).send(image).data_ptr() == image.ctypes.data
    plane = torch.arange(6)
    (found,) = to_host(plane)
    assert found.ctypes.data == plane.data_ptr()


def test_views_that_torch_cannot_take_are_copied() -> None:
    frozen = IMAGE.copy()
    frozen.flags.writeable = False
    for view in (frozen, IMAGE[:, ::-1], IMAGE[::2]):
        sent = Uploads(CPU).send(view)
        assert np.array_equal(sent[0].permute(1, 2, 0).numpy(), view)
        assert sent.data_ptr() != view.ctypes.data


def test_an_image_sent_ahead_is_there_and_any_other_is_sent() -> None:
    uploads, first, second = Uploads(CPU), IMAGE.copy(), IMAGE[::-1].copy()
    first.flags.writeable = second.flags.writeable = False  # so that sending copies
    uploads.send_ahead(first)
    ahead = uploads.send(first)
    again = uploads.send(first)
    assert ahead.data_ptr() != again.data_ptr()
    uploads.send_ahead(first)
    for image in (second, first):
        assert np.array_equal(uploads.send(image)[0].permute(1, 2, 0).numpy(), image)


@needs_gpu
def test_an_image_travels_beside_the_work_of_the_device() -> None:
    uploads = Uploads(torch.device("cuda"))
    images = [np.full((1024, 2048, 3), value, np.uint8) for value in range(4)]
    sums = []
    for image, following in zip(images, [*images[1:], None], strict=True):
        sent = uploads.send(image)
        busy = sent.double().sum()
        if following is not None:
            uploads.send_ahead(following)
        sums.append(float(busy) / image.size)
    assert sums == [0, 1, 2, 3]


def test_all_planes_come_back_in_order() -> None:
    planes = (torch.zeros(2, 2, dtype=torch.uint8), torch.ones(3))
    found = to_host(*planes)
    assert [x.tolist() for x in found] == [[[0, 0], [0, 0]], [1.0, 1.0, 1.0]]


@needs_gpu
def test_frames_in_flight_share_nothing() -> None:
    uploads = Uploads(torch.device("cuda"))
    images = [np.full((256, 512, 3), value, np.uint8) for value in range(8)]
    sent = [uploads.send(image) for image in images]
    back = to_host(*sent)
    assert [int(plane.min()) for plane in back] == [int(plane.max()) for plane in back]
    assert [int(plane.flat[0]) for plane in back] == list(range(8))
