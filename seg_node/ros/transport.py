"""The transport setting that lets large images arrive on one machine; imports no ROS.

Fast DDS carries images between processes of one machine through a segment of shared memory that
belongs to the sender. By default it holds half a megabyte, a tenth of a camera image, and what
does not fit is lost. `SHIPPED` makes it 64 MB: room for ten images of 1920x1080. It belongs into
the environment of the camera's process first of all, because the segment is the sender's.

It must be set before rclpy starts. Reasons, measurements and limits: docs/transport.md.
"""

from __future__ import annotations

import os
from pathlib import Path
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "FASTDDS_BUILTIN_TRANSPORTS"
"""Environment variable of Fast DDS 2.14 and newer (ROS 2 Jazzy and newer)."""

SHIPPED = "DEFAULT?sockets_size=32MB"
"""UDP and shared memory as by default, with large buffers; the segment is twice `sockets_size`."""

LOCAL_BUFFER_MB = 32
LOCAL_ONLY = f"SHM?sockets_size={LOCAL_BUFFER_MB}MB"
"""Shared memory and nothing else: no packet leaves the machine, whatever the discovery range."""

LOCAL_PROCESSES = 4
"""Processes of a demo or test that must share what shared memory a container has (often 64 MB)."""

LOCAL_BUFFER_MIN_MB = 2
"""Below this a segment, which is twice as large, holds few images; then UDP is the better way."""

SEGMENT_BYTES = 64 * 2**20
"""Shared memory that every process takes with `SHIPPED` or `LOCAL_ONLY`."""

RANGE_VARIABLE = "ROS_AUTOMATIC_DISCOVERY_RANGE"

PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
"""Variables that name an XML file of Fast DDS; whoever has one has made a choice."""

FAST_DDS = ("rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp")
"""Middlewares that the setting is for; the first is also what ROS 2 uses by default."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, nothing is written

KERNEL_SETTINGS = (
    "net.core.rmem_max",
    "net.core.rmem_default",
    "net.ipv4.ipfrag_time",
    "net.ipv4.ipfrag_high_thresh",
)
"""Kernel settings that decide whether large images arrive over a network link."""


def transport_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to add to an environment so that large images arrive.

    Empty where the user has decided already: the variable is set, an XML profile is named, or
    another middleware than Fast DDS is chosen.

    Args:
        environ: the environment of the process to be, such as `os.environ`.

    """
    if environ.get("RMW_IMPLEMENTATION", FAST_DDS[0]) not in FAST_DDS:
        return {}
    if any(environ.get(name) for name in (VARIABLE, *PROFILE_VARIABLES)):
        return {}
    return {VARIABLE: SHIPPED}


def local_environment(environ: Mapping[str, str], free_bytes: int | None = None) -> dict[str, str]:
    """Return the variables to add so that processes keep to this machine and images arrive.

    For a group of processes that are all started with it, such as a demo or a test: they talk by
    shared memory alone and open no socket, so the discovery range may stay wide. With `LOCALHOST`,
    ROS 2 Kilted ignores transport settings. Where the user has decided about the transport, or
    shared memory is too small to carry images, the range is narrowed instead.

    Args:
        environ: the environment of the processes to be, such as `os.environ`.
        free_bytes: free shared memory; None to look.

    """
    free = free_shared_memory() if free_bytes is None else free_bytes
    megabytes = min(LOCAL_BUFFER_MB, free // (LOCAL_PROCESSES * 2 * 2**20))
    if not transport_environment(environ) or megabytes < LOCAL_BUFFER_MIN_MB:
        return {RANGE_VARIABLE: "LOCALHOST"}
    return {VARIABLE: f"SHM?sockets_size={megabytes}MB", RANGE_VARIABLE: "SUBNET"}


def is_local_only(environ: Mapping[str, str]) -> bool:
    """Return whether ROS itself keeps to this machine, which makes Fast DDS ignore `SHIPPED`."""
    wide = environ.get(RANGE_VARIABLE, "").upper() != "LOCALHOST"
    return not wide or environ.get("ROS_LOCALHOST_ONLY") == "1"


def shared_memory_bytes() -> int | None:
    """Return the size of the machine's shared memory in bytes, None where there is none."""
    return shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else None


def free_shared_memory() -> int:
    """Return the free shared memory in bytes, 0 where there is none."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0


def kernel_facts(root: Path = Path("/proc/sys")) -> dict[str, int]:
    """Return the kernel settings that can be read here, by name."""
    found = {}
    for name in KERNEL_SETTINGS:
        path = root.joinpath(*name.split("."))
        if os.access(path, os.R_OK):
            found[name] = int(path.read_text(encoding="utf-8").split()[0])
    return found
