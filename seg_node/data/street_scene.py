"""The world of the synthetic street: what stands where, and where the camera is, at any time.

Coordinates are those of `street_geometry`. Everything is a function of the seed and the time
alone, so any frame can be asked for first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from seg_node.data import street_actors as actors
from seg_node.data import street_art as art
from seg_node.data.street_geometry import Camera, Floats, Quads, View

if TYPE_CHECKING:
    from seg_node.data.street_draw import Texture

SKY, BUILDING, POLE, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = 0, 1, 2, 5, 6, 7, 8, 9, 10
FAR_M = 100.0
"""Nothing but the backdrop is drawn beyond this distance."""
PLOT_M = 12.0
"""Length of one building plot along the road."""

_BACK, _FRONT = 0, 1
_CYCLE_M = 2 * art.GROUND_PERIOD_M
_CAR_M, _CAR_HALF_M, _CAR_HIGH_M = 4.3, 0.88, 1.5
_WAIT_M = 7.0  # from the middle of the road to where people wait before they cross it
_STOP_GAP_M = 6.5  # from the halted camera to the middle of the zebra crossing
_KEPT_PLOTS = 64  # bounds the memory of a long drive
_PLOTS_PER_PERIOD = round(art.GROUND_PERIOD_M / PLOT_M)


class Builder:
    """Collects quads, and the shadows below them."""

    def __init__(self) -> None:
        """Start empty."""
        self._places: list[tuple[float, ...]] = []
        self._looks: list[tuple[Texture, int, int]] = []
        self.shadows: list[tuple[float, float, float, float]] = []

    def wall(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        z: tuple[float, float],
        look: tuple[Texture, int, int],
    ) -> None:
        """Add an upright quad from `start` (left, as seen) to `end` (x, y), z = (low, high)."""
        self._places.append((*start, z[1], end[0] - start[0], end[1] - start[1], z[0] - z[1]))
        self._looks.append(look)

    def board(
        self,
        at: tuple[float, float],
        size: tuple[float, float],
        texture: Texture,
        label: int,
        low: float = 0.0,
    ) -> None:
        """Add a quad that faces the coming traffic, `size` = (width, height), its foot at `at`."""
        half = size[0] / 2
        self.wall((at[0] - half, at[1]), (at[0] + half, at[1]), (low, low + size[1]),
                  (texture, label, _FRONT))  # fmt: skip

    def shade(self, at: tuple[float, float], size: tuple[float, float]) -> None:
        """Add a soft shadow on the ground: its middle, and its (width, length)."""
        self.shadows.append((at[0] - size[0] / 2, at[1] - size[1] / 2, *size))

    def car(self, x: float, y: float, variant: int, *, oncoming: bool) -> None:
        """Add a car whose nearer end is at y."""
        left, right, far = x - _CAR_HALF_M, x + _CAR_HALF_M, y + _CAR_M
        side = (actors.car_side(variant), CAR, _FRONT)
        mirrored = (actors.car_side_mirrored(variant), CAR, _FRONT)
        # Seen from the left the far end is at the left, seen from the right at the right.
        at_left, at_right = (side, mirrored) if oncoming else (mirrored, side)
        self.wall((left, far), (left, y), (0.0, _CAR_HIGH_M), at_left)
        self.wall((right, y), (right, far), (0.0, _CAR_HIGH_M), at_right)
        if oncoming:
            self.board(
                (x, y + 1.25), (2 * _CAR_HALF_M, _CAR_HIGH_M), actors.car_cabin(variant), CAR
            )
            self.board((x, y), (2 * _CAR_HALF_M, 0.9), actors.car_front(variant), CAR)
        else:
            self.board((x, y), (2 * _CAR_HALF_M, _CAR_HIGH_M), actors.car_back(variant), CAR)
        self.shade((x, y + _CAR_M / 2), (2.5, 5.6))

    def quads(self, first_key: int) -> Quads:
        """Return what was collected, numbered from `first_key`."""
        count = len(self._looks)
        texture = np.empty(count, object)
        texture[:] = [look[0] for look in self._looks]
        label, layer = np.array([look[1:] for look in self._looks], np.uint8).reshape(-1, 2).T
        place = np.array(self._places).reshape(-1, 6)
        across, down = np.zeros((2, count, 3))
        across[:, :2], down[:, 2] = place[:, 3:5], place[:, 5]
        return Quads(np.arange(first_key, first_key + count), place[:, :3], across, down,
                     label, layer, texture)  # fmt: skip


class Drive:
    """The camera's journey: speed, stops, swaying, turning, all known at any time."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        """Draw the journey of one seed for a picture of this size."""
        speeds = rng.uniform(8.0, 13.0, 4)
        self._times = np.cumsum([0.0, 4.0, 3.0, 4.0, rng.uniform(3.5, 5.0), 3.5, 5.0])
        self._speeds = np.array(
            [speeds[0], speeds[1], speeds[2] * 0.6, 0, 0, speeds[3], speeds[0]]
        )
        self._distances = self._integral()
        self._speeds *= _CYCLE_M / self._distances[-1]
        self._distances = self._integral()
        self.stop_s = float(self._times[3])
        self._offset = art.ZEBRA_M - _STOP_GAP_M - self._distances[3]
        self._phase_s = rng.uniform(0.0, self._times[-1])
        self._waves = rng.uniform(0.0, 2 * np.pi, 4)
        self._sway, self._turn = rng.uniform(0.2, 0.55), rng.uniform(0.06, 0.2)
        self._eye = rng.uniform(1.3, 1.65)
        self._focal = rng.uniform(0.85, 1.0) * width
        self._middle = (width - 1) / 2, rng.uniform(0.42, 0.48) * height
        self._bob = rng.uniform(0.001, 0.004) * height

    def _integral(self) -> Floats:
        steps = np.diff(self._times) * (self._speeds[1:] + self._speeds[:-1]) / 2
        return np.concatenate([[0.0], np.cumsum(steps)])

    def moment(self, time_s: float) -> tuple[int, float]:
        """Return (cycle, seconds within it); each cycle has one stop at `stop_s`."""
        cycle, within = divmod(time_s + self._phase_s, float(self._times[-1]))
        return int(cycle), within

    def travelled(self, time_s: float) -> float:
        """Return y of the camera at a time, in metres."""
        cycle, within = self.moment(time_s)
        at = min(int(np.searchsorted(self._times, within, side="right")) - 1, 5)
        past = within - self._times[at]
        span = self._times[at + 1] - self._times[at]
        gain = (self._speeds[at + 1] - self._speeds[at]) / span
        metres = self._distances[at] + past * (self._speeds[at] + gain * past / 2)
        return float(cycle * _CYCLE_M + metres + self._offset)

    def stop_y(self, cycle: int) -> float:
        """Return y of the camera where it halts in this cycle."""
        return cycle * _CYCLE_M + art.ZEBRA_M - _STOP_GAP_M

    def camera(self, time_s: float) -> Camera:
        """Return the camera at a time; it sways and turns by the metre, so a stop is still."""
        y = self.travelled(time_s)
        first, second, third, fourth = self._waves
        x = 1.7 + self._sway * math.sin(2 * math.pi * y / 57 + first)
        slope = self._sway * 2 * math.pi / 57 * math.cos(2 * math.pi * y / 57 + first)
        yaw = math.atan(slope) + self._turn * math.sin(2 * math.pi * y / 73 + second)
        yaw += 0.2 * self._turn * math.sin(2 * math.pi * y / 19 + third)
        lift = self._bob * (math.sin(2 * math.pi * y / 7.3 + fourth) + math.sin(y * 2.9))
        middle = self._middle[0], self._middle[1] + lift
        return Camera((x, y, self._eye), yaw, self._focal, middle)


class World:
    """Everything that stands or moves along the road of one seed."""

    def __init__(self, seed: int, width: int, height: int) -> None:
        """Draw the road of this seed; plots are built when the camera gets near."""
        self._seed = seed
        rng = np.random.default_rng((seed, 1))
        self.drive = Drive(rng, width, height)
        self.ground_variant, self._sky = int(rng.integers(6)), int(rng.integers(8))
        self._built_up = rng.uniform(0.35, 0.9)
        self._green = rng.uniform(0.3, 0.9)
        self._parked = rng.uniform(0.1, 0.6)
        self._lead = _happens(rng, 0.6)
        self._movers = np.random.default_rng((seed, 2)).uniform(size=(24, 6))
        self._busy = rng.integers((2, 1, 4), (5, 4, 13))
        self._plots: dict[int, tuple[Quads, Floats]] = {}
        self._here: tuple[int, Quads, Floats] | None = None

    def view(self, time_s: float) -> View:
        """Return what may be seen at this time."""
        camera = self.drive.camera(time_s)
        y = camera.position[1]
        standing, shadows = self._around(math.floor((y - 14) / PLOT_M))
        movers = self._moving(time_s, camera)
        shadows = np.concatenate([shadows, np.array(movers.shadows).reshape(-1, 4)])
        return View(camera, self._backdrop(camera), standing, movers.quads(-64), shadows)

    def _backdrop(self, camera: Camera) -> Quads:
        """Return the sky; it goes along with the camera, as all that is far away does."""
        builder = Builder()
        x, y, z = camera.position
        far = 2000.0
        builder.wall((x - 3 * far, y + far), (x + 3 * far, y + far), (z - 0.05 * far, z + far),
                     (art.sky(self._sky), SKY, _BACK))  # fmt: skip
        return builder.quads(-1)

    def _around(self, first: int) -> tuple[Quads, Floats]:
        """Return what stands between this plot and the far end of sight."""
        if self._here is None or self._here[0] != first:
            last = first + math.ceil((FAR_M + 14) / PLOT_M)
            plots = [self._plot(number) for number in range(first, last + 1)]
            quads = Quads.join([plot for plot, _ in plots])
            self._here = first, quads, np.concatenate([shadows for _, shadows in plots])
        return self._here[1:]

    def _plot(self, number: int) -> tuple[Quads, Floats]:
        found = self._plots.get(number)
        if found is None:
            builder = Builder()
            for side in (-1, 1):
                self._build_side(builder, number, side)
            if len(self._plots) >= _KEPT_PLOTS:
                self._plots.clear()
            shadows = np.array(builder.shadows).reshape(-1, 4)
            found = self._plots[number] = (builder.quads((number + 2**16) * 64), shadows)
        return found

    def _chance(self, number: int, side: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, 3, abs(number), number > 0, side + 1))

    def _is_built(self, number: int, side: int) -> bool:
        return _happens(self._chance(number, side), self._built_up)

    def _build_side(self, builder: Builder, number: int, side: int) -> None:
        rng = self._chance(number, side)
        y = number * PLOT_M
        if _happens(rng, self._built_up):
            high = rng.uniform(8.0, 15.0)
            self._building(builder, rng, (side * (art.PAVEMENT_M + 0.1), y, high),
                           joined=self._is_built(number - 1, side))  # fmt: skip
        else:
            self._garden(builder, rng, side, y)
            self._backdrop_row(builder, rng, side, y)
        self._furniture(builder, rng, side, y)
        self._kerbside(builder, rng, side, number)

    @staticmethod
    def _row(
        builder: Builder, x: float, y: tuple[float, float], z: tuple[float, float],
        look: tuple[Texture, int, int],
    ) -> None:  # fmt: skip
        """Add a wall along the road that faces it, from y[0] to y[1]."""
        near, far = ((x, y[0]), (x, y[1]))
        start, end = (near, far) if x < 0 else (far, near)
        builder.wall(start, end, z, look)

    def _building(
        self, builder: Builder, rng: np.random.Generator, at: tuple[float, float, float],
        *, joined: bool,
    ) -> None:  # fmt: skip
        x, y, high = at
        variant = int(rng.integers(24))
        look = (art.facade(variant), BUILDING, _BACK)
        self._row(builder, x, (y, y + PLOT_M), (0.0, high), look)
        deep = math.copysign(10.0, x)
        ends = sorted((x, x + deep))
        low = 7.5 if joined else 0.0  # a neighbour hides the lower part
        builder.wall((ends[0], y), (ends[1], y), (low, high),
                     (art.gable(variant % 10), BUILDING, _BACK))  # fmt: skip

    def _garden(self, builder: Builder, rng: np.random.Generator, side: int, y: float) -> None:
        edge = side * (art.PAVEMENT_M + 0.1)
        if _happens(rng, 0.7):
            look = (art.fence(int(rng.integers(4))), FENCE, _FRONT)
            high = rng.uniform(1.0, 1.7)
            for part in (0.0, 6.0):
                self._row(builder, edge, (y + part, y + part + 6.0), (0.0, high), look)
        else:
            look = (art.hedge(int(rng.integers(3))), TREE, _FRONT)
            self._row(builder, edge + side * 0.3, (y, y + PLOT_M), (0.0, rng.uniform(1.2, 2.5)),
                      look)  # fmt: skip
        if _happens(rng, 0.5):
            self._building(builder, rng, (side * 14.0, y, rng.uniform(6, 9)), joined=False)
        for _ in range(int(rng.integers(1, 4))):
            high = rng.uniform(4.0, 9.0)
            at = (side * rng.uniform(10.5, 13.0), y + rng.uniform(0, PLOT_M))
            builder.board(at, (high * 0.8, high), art.tree(int(rng.integers(12))), TREE)

    def _backdrop_row(
        self, builder: Builder, rng: np.random.Generator, side: int, y: float
    ) -> None:
        look = (art.hedge(int(rng.integers(3))), TREE, _BACK)
        self._row(builder, side * 17.5, (y, y + PLOT_M), (-0.2, rng.uniform(5.0, 9.0)), look)

    def _furniture(self, builder: Builder, rng: np.random.Generator, side: int, y: float) -> None:
        kerb = side * (art.KERB_M + 0.6)
        if _happens(rng, self._green):
            at = (side * (art.KERB_M + rng.uniform(0.8, 1.4)), y + rng.uniform(1, 11))
            high = rng.uniform(4.0, 8.0)
            builder.board(at, (high * 0.75, high), art.tree(int(rng.integers(12))), TREE)
            builder.shade(at, (1.6, 2.0))
        if _happens(rng, 0.45):
            arm = side * -0.6
            builder.board((kerb + arm, y + 5.0), (1.8, 7.5), art.lamp(0 if side > 0 else 1), POLE)
        if _happens(rng, 0.4):
            at = (kerb, y + rng.uniform(1, 11))
            wide = rng.uniform(0.6, 0.95)
            builder.board((at[0], at[1] + 0.05), (0.09, 2.9), art.post(), POLE)
            builder.board(at, (wide, wide), art.sign(int(rng.integers(5))), SIGN, 2.1)
        if _happens(rng, 0.3):
            for step in range(5):
                builder.board((kerb - side * 0.2, y + 1.5 * step), (0.14, 1.0), art.post(), POLE)

    def _kerbside(
        self, builder: Builder, rng: np.random.Generator, side: int, number: int
    ) -> None:
        """Park cars, but not at the zebra crossing; it has a sign instead."""
        y = number * PLOT_M
        if number % _PLOTS_PER_PERIOD == int(art.ZEBRA_M // PLOT_M):
            at = (side * (art.KERB_M + 0.5), y + 4.0)
            builder.board((at[0], at[1] + 0.05), (0.12, 3.2), art.post(), POLE)
            builder.board(at, (0.8, 0.8), art.sign(4), SIGN, 2.3)
            return
        for bay in (0.4, 6.2):
            if _happens(rng, self._parked):
                x = side * (art.KERB_M - 1.05 + rng.normal(0, 0.06))
                builder.car(x, y + bay + rng.uniform(0, 0.8), int(rng.integers(12)),
                            oncoming=side < 0 and _happens(rng, 0.7))  # fmt: skip

    def _moving(self, time_s: float, camera: Camera) -> Builder:
        """Place what moves at this time: always the same quads in the same order."""
        builder = Builder()
        self._distance(builder, camera)
        dice = iter(self._movers)
        y = camera.position[1]
        if self._lead:
            ahead = self.drive.travelled(time_s + 1.3) + 11.0
            builder.car(1.75, ahead, int(next(dice)[0] * 12), oncoming=False)
        cars, bikes, walkers = (int(count) for count in self._busy)
        for number, die in zip(range(cars), dice, strict=False):
            start = (number + 0.6 * die[1]) * 130.0 / cars
            builder.car(-1.9 + 0.3 * die[2], _near(start - 8.5 * time_s, y, 130.0),
                        int(die[0] * 12), oncoming=True)  # fmt: skip
        for _, die in zip(range(bikes), dice, strict=False):
            at = (2.9 + 0.5 * die[1], _near(die[2] * 110 + (3.5 + 2 * die[3]) * time_s, y, 110.0))
            pedal = actors.bicyclist(int(die[0] * 10), int(time_s * 11 + 8 * die[4]) % 8)
            builder.board(at, (0.95, 1.8), pedal, BICYCLIST)
            builder.shade(at, (0.8, 1.9))
        for _, die in zip(range(walkers), dice, strict=False):
            self._walker(builder, die, time_s, y)
        self._crossers(builder, time_s)
        return builder

    def _distance(self, builder: Builder, camera: Camera) -> None:
        """Close the end of sight with woods that stay equally far away."""
        x, y, _ = camera.position
        for number, (die, left) in enumerate(zip(self._movers, (-60, -20, 20), strict=False)):
            look = (art.hedge(number), TREE, _BACK)
            builder.wall((x + left, y + FAR_M - 1), (x + left + 40, y + FAR_M - 1),
                         (0.0, 5.0 + 4.0 * die[3]), look)  # fmt: skip

    @staticmethod
    def _walker(builder: Builder, die: Floats, time_s: float, y: float) -> None:
        side = -1 if round(0.9 * die[1]) else 1
        speed = (1.1 + 0.5 * die[2]) * (-1 if round(die[3]) else 1)
        at = (side * (6.6 + 1.9 * die[4]), _near(90 * die[5] + speed * time_s, y, 90.0))
        phase = int(time_s * 8 + 8 * die[2]) % 8
        high = 1.62 + 0.25 * die[4]
        builder.board(at, (high * 0.56, high), actors.person(int(die[0] * 10), phase, away=True),
                      PEDESTRIAN)  # fmt: skip
        builder.shade(at, (0.7, 0.6))

    def _crossers(self, builder: Builder, time_s: float) -> None:
        """Let people cross at the zebra crossing while the camera halts there."""
        cycle, within = self.drive.moment(time_s)
        y = self.drive.stop_y(cycle) + _STOP_GAP_M
        for number, (way, delay) in enumerate(((1, -3.5), (-1, -1.0), (1, -2.6))):
            past = 1.75 * (within - self.drive.stop_s - delay)
            x = way * float(np.clip(past - _WAIT_M, -_WAIT_M, _WAIT_M))
            walking = abs(x) < _WAIT_M
            phase = int(time_s * 9 + number) % 8 if walking else 0
            at = (x, y - 0.5 + 0.5 * number)
            picture = actors.person(int(self._movers[number, 5] * 10), phase, away=False)
            builder.board(at, (1.0, 1.75), picture, PEDESTRIAN)
            builder.shade(at, (0.8, 0.6))


def _near(y: float, camera_y: float, window: float) -> float:
    """Move y by whole windows to between 15 m behind the camera and the window's far end."""
    return camera_y - 15.0 + (y - camera_y + 15.0) % window


def _happens(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)
