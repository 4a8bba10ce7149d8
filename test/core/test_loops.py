"""Loops that Numba compiles do what NumPy, OpenCV and torch do in whole planes."""

from __future__ import annotations

from contextlib import contextmanager
import os
from pathlib import Path
import subprocess
import sys
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch

from seg_node.core.attention import local_attention
from seg_node.core.blocks import BlockLayout, grid_shape, Window
from seg_node.core.borders import read_borders
from seg_node.core.budgeted import Budgeted
from seg_node.core.comparing import COLOURS, compare
from seg_node.core.config import Config
from seg_node.core.feature_pool import FeaturePool, NO_TILE
from seg_node.core.gate import Gated
from seg_node.core.masks import decide_planes
from seg_node.core.origins import Origins
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import Ranked, UNTRAINED
from seg_node.core.residual import find_gated_modules
from seg_node.core.result_pool import ResultPool
from seg_node.core.scores import Middle
from seg_node.core.tile_pictures import TilePictures
from seg_node.core.types import Action
from seg_node.core.warp import origin, warp
from seg_node.data.street import Street
from seg_node.loops import compiling, pointing, sharing
from seg_node.nets.swiftnet import SwiftNet
from test.core.slow_attention import holes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    from numpy.typing import NDArray

    from seg_node.core.types import Frame, StepResult

    Result = TypeVar("Result")

ROOT = Path(__file__).resolve().parents[2]
SIDE, STRIDE, CLASSES = 32, 4, 5
SIZES = ((45, 60), (23, 31), (8, 8))
"""Planes of results: whole blocks, blocks that stick out, and a single block."""

pytestmark = pytest.mark.skipif(not compiling.AVAILABLE, reason="numba is not installed")


@contextmanager
def without_loops() -> Iterator[None]:
    """Have everything done in whole planes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "AVAILABLE", False)
        yield


def both(make: Callable[[], Result]) -> tuple[Result, Result]:
    """Return what is made with loops, and without."""
    with_loops = make()
    with without_loops():
        return with_loops, make()


def smooth_flow(seed: int, size: tuple[int, int]) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1.5, (4, 5, 2)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, size[::-1]), np.float32)


def wandered(size: tuple[int, int], frames: int = 4) -> Origins:
    """Return pointers after some frames of motion, some blocks of which are computed anew."""
    origins = Origins(size, SIDE // STRIDE)
    tiles = int(np.prod(origins.grid))
    for seed in range(frames):
        block = np.array([[seed % origins.grid[0], seed % origins.grid[1]]])
        origins.renew(block, np.array([tiles + seed]))
        origins.move(smooth_flow(seed, size))
    return origins


def results(size: tuple[int, int], seed: int = 0) -> ResultPool:
    """Return tiles of smooth random logits and a picture, with some more of later frames."""
    pool = ResultPool(SIDE // STRIDE)
    generator = torch.Generator().manual_seed(seed)
    planes = [
        torch.nn.functional.interpolate(
            torch.randn(1, CLASSES + COLOURS, 3, 4, generator=generator) * 4, size, mode="bilinear"
        )
        for _ in range(2)
    ]
    pool.restart(planes[0], 0)
    grid = Origins(size, SIDE // STRIDE).grid
    for row in range(4):
        block = np.array([[row % grid[0], row % grid[1]]])
        pool.add((planes[1],), block, row)
    return pool


# ---- pointers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_pointers_move_alike(size: tuple[int, int]) -> None:
    def make() -> Origins:
        return wandered(size, 6)

    ours, theirs = both(make)
    assert (np.abs(theirs._drift) > 0.1).any()
    for a, b in ((ours.slot, theirs.slot), (ours.place, theirs.place)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(ours._drift, theirs._drift)


def test_motion_that_is_no_number_leads_nowhere_else() -> None:
    """Loops read without a look at bounds: what is no number must not become an address."""
    origins = wandered(SIZES[0])
    flow = smooth_flow(9, SIZES[0])
    flow[3:9, 4:20] = np.nan
    flow[20:22, 7] = np.inf
    flow[30:32, 7] = -np.inf
    origins.move(flow)
    for seed in range(3):
        origins.move(smooth_flow(seed, SIZES[0]))
    assert np.isfinite(origins.place[:, 25:27, 30:]).all()
    assert ((origins.slot >= 0) & (origins.slot < len(origins.corners))).all()


@pytest.mark.parametrize("size", SIZES)
def test_results_are_read_alike(size: tuple[int, int]) -> None:
    origins, pool = wandered(size), results(size)
    ours, theirs = both(lambda: pool.read(origins))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("size", SIZES)
def test_places_of_features_are_found_alike(size: tuple[int, int], stride: int) -> None:
    origins = wandered(size)
    image = size[0] * STRIDE - 3, size[1] * STRIDE - 1
    pool = FeaturePool(grid_shape(*image, SIDE), STRIDE, SIDE)
    pool._number(origins)
    pool._tile_of = np.append(pool._tile_of, np.arange(4) % len(pool._tile_of))
    pool._tile_of[::3] = NO_TILE
    plane = -(-image[0] // stride), -(-image[1] // stride)
    pixels = np.random.default_rng(0).integers(0, plane[0] * plane[1], 300)
    ours, theirs = both(lambda: pool._find(pixels, Window(stride, plane, 1, 1)))
    assert ours.rows.equal(theirs.rows)
    assert ours.shares.equal(theirs.shares)


@pytest.mark.parametrize("stride", [1, 4, 16])
@pytest.mark.parametrize("size", SIZES)
def test_places_of_branches_are_found_alike(size: tuple[int, int], stride: int) -> None:
    origins, pool = wandered(size), ResultPool(SIDE // stride)
    plane = -(-size[0] * STRIDE // stride), -(-size[1] * STRIDE // stride)
    pool.restart(torch.rand(1, 3, *plane), 0)
    pool.add((torch.rand(1, 3, *plane),), np.zeros((4, 2), np.int64), 1)
    pixels = np.arange(plane[0] * plane[1])[::3]
    scale = stride / STRIDE
    ours, theirs = both(lambda: pool.reads_at(pixels, plane, scale, origins))
    assert ours.rows.equal(theirs.rows)
    assert ours.shares.equal(theirs.shares)


@pytest.mark.parametrize("size", SIZES)
def test_pictures_of_tiles_are_shown_alike(size: tuple[int, int]) -> None:
    image = next(Street(1, size[1] * STRIDE, size[0] * STRIDE).frames(1)).frame.image
    origins = wandered(size)
    pictures = TilePictures((image.shape[0], image.shape[1]), STRIDE, SIDE)
    blocks = np.argwhere(np.ones(origins.grid, np.bool_))
    pictures.add(image, blocks, np.arange(len(blocks)))
    pictures.add(image[::-1], blocks[:1].repeat(4, 0), len(blocks) + np.arange(4))
    ours, theirs = both(lambda: pictures.moved(origins))
    np.testing.assert_array_equal(ours, theirs)


def test_flow_leads_to_the_same_places() -> None:
    flow = smooth_flow(3, (45, 60))
    for a, b in zip(*both(lambda: origin(flow)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("images", [1, 2])
def test_planes_are_moved_alike(images: int) -> None:
    size = (23, 31)
    flow = torch.from_numpy(np.stack([smooth_flow(seed, size) for seed in range(images)]))
    rng = np.random.default_rng(0)
    planes = torch.from_numpy(rng.normal(size=(images, CLASSES, *size)).astype(np.float32))
    ours, theirs = both(lambda: warp(planes, flow))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours.stride() == theirs.stride()


# ---- attention ---------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (5, 2), (2, 9), (9, 11)])
def test_pixels_look_around_alike(
    size: tuple[int, int], threads: int, monkeypatch: pytest.MonkeyPatch, *, masked: bool
) -> None:
    """Also where windows are larger than the image, and where they hold nothing valid."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    torch.manual_seed(5)
    base, *operands = torch.randn(4, 2, 19, *size)
    valid = holes(2, *size) if masked else None
    before = base.clone()
    ours, theirs = both(
        lambda: local_attention(base, (operands[0], operands[1], operands[2]), valid, 7)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(base, before)
    assert masked or not torch.equal(ours, base)


# ---- masks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("size", SIZES)
def test_masks_are_decided_alike(size: tuple[int, int], stride: int) -> None:
    """With more classes than numbers in a register, and a mask smaller than the logits are."""
    logits = torch.randn(1, 19, 4, 5, generator=torch.Generator().manual_seed(4)) * 9
    logits = torch.nn.functional.interpolate(logits, size, mode="bilinear")
    mask = max(1, size[0] * stride - stride + 1), max(1, size[1] * stride - stride // 2)
    (label, share), (labels, shares) = both(lambda: decide_planes(logits, stride, mask))
    assert label.shape == mask
    assert label.equal(labels)
    assert (share.int() - shares.int()).abs().max() <= 1
    assert (share != shares).float().mean() < 0.01


def test_of_equal_classes_the_first_is_chosen() -> None:
    logits = torch.zeros(1, 4, 6, 8)
    logits[:, 2:] = 1.0
    (label, share), (labels, shares) = both(lambda: decide_planes(logits, 4, (24, 32)))
    assert label.equal(labels)
    assert (label == 2).all()
    assert share.equal(shares)


@pytest.mark.parametrize("size", SIZES)
def test_borders_are_decided_alike(size: tuple[int, int]) -> None:
    origins, pool = wandered(size), results(size)
    image = size[0] * STRIDE - 3, size[1] * STRIDE - 1
    before = decide_planes(pool.read(origins)[:, :CLASSES], STRIDE, image)

    def make() -> tuple[torch.Tensor, torch.Tensor]:
        planes = before[0].clone(), before[1].clone()
        return read_borders(planes, pool, origins, STRIDE, CLASSES)

    (label, share), (labels, shares) = both(make)
    assert not label.equal(before[0])
    assert (label != labels).float().mean() < 1e-3
    assert ((share.int() - shares.int()).abs() > 1).float().mean() < 1e-3


@pytest.mark.parametrize("size", SIZES)
def test_memory_is_compared_alike(size: tuple[int, int]) -> None:
    origins, pool = wandered(size), results(size)
    known = pool.read(origins)
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(3, *size, generator=generator) * 9
    valid = torch.rand(size, generator=generator) > 0.1
    ages_ms = np.arange(len(pool.stamps_ns), dtype=np.float64) * 33
    ours, theirs = both(lambda: compare(known, picture, valid, ages_ms, origins))
    torch.testing.assert_close(ours.change, theirs.change, rtol=1e-5, atol=1e-4)
    for name in ("distortion", "doubt", "risk", "age_ms", "oldest_ms"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=2e-5)


# ---- blocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(150, 190), (128, 128), (33, 97)])
@pytest.mark.parametrize(("before", "after", "stride"), [(1, 1, 4), (3, 2, 1), (0, 1, 2)])
def test_lists_of_rows_are_made_alike(
    size: tuple[int, int], before: int, after: int, stride: int
) -> None:
    grid = np.random.default_rng(5).integers(0, 3, grid_shape(*size, SIDE)).astype(np.uint8)[None]
    grid.flat[0], grid.flat[-1] = Action.HIGH, Action.HIGH
    plane = -(-size[0] // stride), -(-size[1] // stride)
    window = Window(stride, plane, before, after)
    for action in (Action.HIGH, Action.LOW):
        ours, theirs = both(lambda: _lists(BlockLayout(grid, SIDE, size), action, window))  # noqa: B023 - called at once
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert a.equal(b)


def _lists(layout: BlockLayout, action: Action, window: Window) -> list[torch.Tensor]:
    rows, beyond = layout.rows(action, window), layout.beyond(action, window)
    found = [rows.own, rows.other_at, rows.other, rows.plane_at, rows.plane]
    return found if beyond is None else [*found, beyond.at, beyond.nearest]


# ---- whole steps -------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dense", "warp", "adaptive", "segblocks", "stmg"])
def test_steps_are_alike(mode: str) -> None:
    torch.manual_seed(3)
    net = SwiftNet(CLASSES, 0.25).eval().requires_grad_(requires_grad=False)
    config = Config(mode=mode, device="cpu", precision="fp32").updated(
        {"block_size": 64, "budget.compute": 0.3}
    )
    frames = [sample.frame for sample in Street(3, 240, 180).frames(6)]

    def run() -> list[StepResult]:
        ranked, gated = Ranked(Middle()), Gated(find_gated_modules(net))
        policies = {**UNTRAINED, "adaptive": Budgeted(), "segblocks": ranked, "stmg": gated}
        return _stepped(Segmenter(net, policies, config), frames)

    for ours, theirs in zip(*both(run), strict=True):
        np.testing.assert_array_equal(ours.plan.grid, theirs.plan.grid)
        assert ours.report.macs == theirs.report.macs
        np.testing.assert_array_equal(ours.age_ms, theirs.age_ms)
        assert np.mean(ours.labels != theirs.labels) < 1e-3
        assert np.mean(np.abs(ours.confidence.astype(int) - theirs.confidence) > 1) < 1e-3


def _stepped(segmenter: Segmenter, frames: list[Frame]) -> list[StepResult]:
    return [segmenter.step(frame) for frame in frames]


def test_half_precision_and_double_are_left_to_torch() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert not compiling.usable(torch.zeros(1, dtype=dtype))
    assert not compiling.usable(torch.zeros(1, device="meta"))
    assert compiling.usable(torch.zeros(1))


# ---- compiling ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numba", "off", "lack"),
    [
        ("raise ImportError('needs NumPy 2.5 or less')", "", "cannot be used (needs NumPy 2.5"),
        (None, "1", "NUMBA_DISABLE_JIT is set"),
    ],
)
def test_where_loops_cannot_be_compiled_they_do_not_run(
    tmp_path: Path, numba: str | None, off: str, lack: str
) -> None:
    if numba is not None:
        (tmp_path / "numba.py").write_text(numba)
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "NUMBA_DISABLE_JIT": off},
    )
    assert told.stdout.startswith("False 3 function\n")
    assert lack in told.stdout


# ---- threads -----------------------------------------------------------------------------------


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("rows", [1, 2, 15, 16, 17, 45])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_row_has_its_turn_once_on_any_number_of_threads(rows: int, count: int) -> None:
    flow = smooth_flow(rows, (rows, 7))
    x, y = (np.full((rows, 7), 1e9, np.float32) for _ in range(2))
    pointing.origin(count, flow, x, y)
    np.testing.assert_array_equal(x, np.arange(7, dtype=np.float32) + flow[..., 0])
    np.testing.assert_array_equal(y, np.arange(rows, dtype=np.float32)[:, None] + flow[..., 1])


def test_loops_give_the_same_on_any_number_of_threads() -> None:
    """Bit for bit: pointers, what is read, compared and decided, moved planes, attention."""
    size = SIZES[0]
    planes = torch.randn(1, 24, *size, generator=torch.Generator().manual_seed(3))
    flow = smooth_flow(5, size)

    def made() -> list[NDArray[Any]]:
        origins, pool = wandered(size), results(size)
        known = pool.read(origins)
        valid = torch.ones(size, dtype=torch.bool)
        ages_ms = np.arange(len(pool.stamps_ns), dtype=np.float64)
        found = compare(known, known[0, -COLOURS:] + 3, valid, ages_ms, origins)
        mask = decide_planes(known[:, :CLASSES], STRIDE, (4 * size[0], 4 * size[1]))
        mask = read_borders(mask, pool, origins, STRIDE, CLASSES)
        moved = warp(planes, torch.from_numpy(flow)[None])
        fused = local_attention(planes, (planes, moved, moved), None, 7)
        tables = (known, found.change, *mask, moved, fused)
        arrays = (found.distortion, found.doubt, found.risk, found.oldest_ms, origins.place)
        return [*(table.numpy() for table in tables), *arrays]

    with on_threads(1):
        alone = made()
    for count in (2, 3):
        with on_threads(count):
            for ours, theirs in zip(made(), alone, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_loops_run_on_the_threads_of_torch() -> None:
    assert sharing.SHARED
    with on_threads(3):
        assert sharing.threads() == 3


def test_machine_code_on_disk_runs_where_torch_has_no_openmp() -> None:
    """It is the code of a process that had it, and finds a stand-in: one thread."""
    told = subprocess.run(
        [sys.executable, "-c", ALONE], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert told.stdout == "False 1 [3.0, 4.0]\n"


ALONE = """
import ctypes
import numba
import torch
class Nothing:
    def __init__(self, path):
        raise OSError("there is none")
ctypes.CDLL = Nothing
import numpy as np
from seg_node.loops import pointing, sharing
flow = np.full((2, 2, 2), 3, np.float32)
x, y = (np.empty((2, 2), np.float32) for _ in range(2))
pointing.origin(sharing.threads(), flow, x, y)
pointing.origin(5, flow, x, y)
print(sharing.SHARED, sharing.threads(), x[0].tolist())
"""


WITHOUT = """
import torch
from seg_node.core.masks import decide_planes
from seg_node.loops import compiling, deciding
logits = torch.arange(4.0).view(1, 4, 1, 1).repeat(1, 1, 3, 3)
label = int(decide_planes(logits, 4, (12, 12))[0].max())
print(compiling.AVAILABLE, label, type(deciding.decide).__name__)
print(compiling.LACK)
"""


def test_loops_compile_where_nothing_can_be_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Numba refuses to keep machine code where it finds no folder to write to."""
    import numba  # noqa: PLC0415 - optional

    make = numba.njit

    def njit(**settings: bool | str) -> Callable[..., object]:
        if settings.get("cache"):
            msg = "cannot cache function 'double': no locator available"
            raise RuntimeError(msg)
        made: Callable[..., object] = make(**settings)
        return made

    monkeypatch.setattr(numba, "njit", njit)

    def double(values: NDArray[np.float32]) -> None:
        for at in range(len(values)):
            values[at] *= 2

    values = np.ones(3, np.float32)
    with caplog.at_level("INFO"):
        compiling.compiled(double)(values)
    assert values.tolist() == [2, 2, 2]
    assert "double is compiled anew by every process: cannot cache" in caplog.text
