"""Energy that the machine says it has used: RAPL on PCs, NVML on Nvidia cards, rails on Jetsons.

Every meter counts joules of a whole part of the machine since some time in the past. So what a
step has used is a difference of two readings, with idle power and whatever else runs in it.
"""

from __future__ import annotations

from functools import lru_cache
import importlib
import logging
from pathlib import Path
import time
from typing import Any, Protocol, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RAPL = Path("/sys/class/powercap")
HWMON = Path("/sys/class/hwmon")
WHOLE_BOARD = "VDD_IN"
"""Rail of a Jetson that feeds all others."""
_MICRO = 1e-6
_MILLI = 1e-3

logger = logging.getLogger(__name__)


class Meter(Protocol):
    """Counts the energy of a part of the machine.

    Attributes:
        name: what it measures, for people.

    """

    name: str

    def joules(self) -> float:
        """Return the energy used since some time in the past, never less than before."""
        ...


class RaplZone:
    """A zone of Linux' powercap, such as a processor package, whose counter wraps around.

    Args:
        folder: of the zone, with `name`, `energy_uj` and `max_energy_range_uj`.

    Raises:
        OSError: a file is not there or may not be read.
        ValueError: a file holds no number.

    """

    def __init__(self, folder: Path) -> None:
        """Read the counter for the first time."""
        self.name = f"RAPL {(folder / 'name').read_text().strip()}"
        self._counter = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = int(self._counter.read_text())
        self._total = 0

    def joules(self) -> float:
        """Return the energy since the meter was made.

        It must be read at least once in a turn of the counter, which takes minutes.
        """
        now = int(self._counter.read_text())
        self._total += now - self._last + (self._range if now < self._last else 0)
        self._last = now
        return self._total * _MICRO


class NvmlDevice:
    """A card of Nvidia, from Volta on.

    Args:
        name: what to call it.
        millijoules: returns the driver's counter.

    """

    def __init__(self, name: str, millijoules: Callable[[], int]) -> None:
        """Take the counter."""
        self.name = f"NVML {name}"
        self._millijoules = millijoules

    def joules(self) -> float:
        """Return the energy since the driver was loaded."""
        return self._millijoules() * _MILLI


class Ina3221Rail:
    """A rail of a Jetson's power monitor: volts and amperes, added up over time.

    Power is taken to change evenly between two readings. The monitor itself averages over some
    100 ms, so steps of several modes in turns cannot be told apart: run one mode alone.

    Args:
        folder: of the monitor, with `inN_input` (mV) and `currN_input` (mA).
        number: N.
        label: name of the rail.
        clock: seconds that never go back.

    Raises:
        OSError: a file is not there or may not be read.
        ValueError: a file holds no number.

    """

    def __init__(
        self,
        folder: Path,
        number: int,
        label: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read the power for the first time."""
        self.name = f"INA3221 {label}"
        self._volts = folder / f"in{number}_input"
        self._amperes = folder / f"curr{number}_input"
        self._clock = clock
        self._last = clock(), self._watts()
        self._total = 0.0

    def joules(self) -> float:
        """Return the energy since the meter was made."""
        now, watts = self._clock(), self._watts()
        before, watts_before = self._last
        self._total += (now - before) * (watts + watts_before) / 2
        self._last = now, watts
        return self._total

    def _watts(self) -> float:
        millivolts, milliamperes = (int(f.read_text()) for f in (self._volts, self._amperes))
        return millivolts * _MILLI * milliamperes * _MILLI


class Meters:
    """Several meters of different parts of the machine as one.

    Args:
        meters: at least one.

    """

    def __init__(self, meters: Sequence[Meter]) -> None:
        """Take the meters."""
        self.name = ", ".join(meter.name for meter in meters)
        self._meters = meters

    def joules(self) -> float:
        """Return the sum of all."""
        return sum(meter.joules() for meter in self._meters)


@lru_cache
def find_meter(rapl: Path = RAPL, hwmon: Path = HWMON) -> Meter | None:
    """Return what measures this machine; None where nothing does, the reason is in the log.

    A Jetson's whole board is measured alone, since it holds processor and card; elsewhere
    processor packages, their memory and the cards are added up.

    Args:
        rapl: folder of powercap.
        hwmon: folder of the hardware monitors.

    """
    found: list[Meter] = [*find_rails(hwmon)]
    if not found:
        found = [*find_rapl(rapl), *find_nvml()]
    return Meters(found) if found else None


def find_rapl(root: Path = RAPL) -> list[RaplZone]:
    """Return the processor packages and their memory; none where there are none or no rights."""
    zones = [_zone(folder) for folder in sorted(root.glob("intel-rapl:*"))]
    return [zone for zone in zones if zone is not None]


def _zone(folder: Path) -> RaplZone | None:
    """Return a zone that counts something of its own; None and a line in the log otherwise."""
    try:
        name = (folder / "name").read_text().strip()
        # Cores are part of their package, and psys holds everything else a second time.
        return RaplZone(folder) if name.startswith("package") or name == "dram" else None
    except PermissionError:
        logger.info("energy is not measured: 'sudo chmod a+r %s/energy_uj' allows it", folder)
    except (OSError, ValueError) as error:
        logger.info("energy is not measured by %s: %s", folder, error)
    return None


def find_nvml() -> list[NvmlDevice]:
    """Return the cards that count their energy; none without the package nvidia-ml-py."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
        return [_device(nvml, handle) for handle in handles]
    except nvml.NVMLError as error:
        logger.info("energy of the card is not measured: %s", error)
        return []


def _device(nvml: Any, handle: Any) -> NvmlDevice:
    """Return a card, after a first reading that shows that it counts."""

    def millijoules() -> int:
        return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))

    millijoules()
    name = nvml.nvmlDeviceGetName(handle)
    return NvmlDevice(name.decode() if isinstance(name, bytes) else str(name), millijoules)


def find_rails(
    root: Path = HWMON, clock: Callable[[], float] = time.monotonic
) -> list[Ina3221Rail]:
    """Return the rail of a Jetson's whole board, or all rails where it has no such one."""
    rails = {}
    for folder in sorted(root.glob("hwmon*")):
        try:
            if (folder / "name").read_text().strip() != "ina3221":
                continue
            for label in sorted(folder.glob("in*_label")):
                name, number = label.read_text().strip(), int(label.name[2 : -len("_label")])
                if (folder / f"curr{number}_input").exists():
                    rails[name] = Ina3221Rail(folder, number, name, clock)
        except (OSError, ValueError) as error:
            logger.info("energy is not measured by %s: %s", folder, error)
    return [rails[WHOLE_BOARD]] if WHOLE_BOARD in rails else list(rails.values())
