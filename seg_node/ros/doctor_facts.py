"""What `seg_node doctor` finds out about this machine; judges nothing (see `doctor`).

Nothing here needs ROS to be installed: rclpy is looked at in a process of its own, because an
rclpy whose middleware is missing ends the process that imports it.
"""

from __future__ import annotations

from dataclasses import dataclass
import importlib
import json
import os
from pathlib import Path
import subprocess
import sys

from seg_node.core.types import SegNodeError
from seg_node.ros import transport

ROS_PROBE = """
import importlib.metadata, json, rclpy
from rclpy.utilities import get_rmw_implementation_identifier
wheels = any(d.metadata["Name"] == "ros-rclpy" for d in importlib.metadata.distributions())
print(json.dumps({
    "version": importlib.metadata.version("rclpy"),
    "place": rclpy.__file__,
    "from_index": wheels,
    "middleware": get_rmw_implementation_identifier(),
}))
"""
ROS_PROBE_S = 120.0
"""Importing rclpy takes a second, on a busy machine much longer."""


@dataclass(frozen=True)
class Software:
    """Python and what computes; a version is empty where the package is not there."""

    python: tuple[int, int, int]
    numpy: str
    opencv: str
    torch: str
    threads: int
    cpus: int
    gpus: tuple[str, ...]
    gpu_device_file: bool


@dataclass(frozen=True)
class Ros:
    """The ROS that this Python imports.

    Attributes:
        error: why rclpy cannot be used, empty if it can.
        version: version of rclpy.
        place: folder that rclpy was imported from.
        from_index: whether it came as a wheel from the package index.
        middleware: identifier of the RMW implementation in use.
        sourced: value of ROS_DISTRO, empty if no installed ROS was sourced.

    """

    error: str
    version: str
    place: str
    from_index: bool
    middleware: str
    sourced: str


@dataclass(frozen=True)
class Network:
    """What decides whether images arrive and nodes see each other.

    Attributes:
        environ: the variables that matter, as far as they are set.
        shared_memory_bytes: size of /dev/shm, None where there is none.
        kernel: kernel settings by name.

    """

    environ: dict[str, str]
    shared_memory_bytes: int | None
    kernel: dict[str, int]


@dataclass(frozen=True)
class ModelFile:
    """One shipped model; `problem` is empty if its file is there and its hash is right."""

    name: str
    problem: str


@dataclass(frozen=True)
class Models:
    """All models that are found; `problem` says why there are none."""

    files: tuple[ModelFile, ...]
    folder: str
    problem: str


VARIABLES = (
    "ROS_DOMAIN_ID",
    "ROS_AUTOMATIC_DISCOVERY_RANGE",
    "ROS_LOCALHOST_ONLY",
    "ROS_STATIC_PEERS",
    "RMW_IMPLEMENTATION",
    transport.VARIABLE,
    *transport.PROFILE_VARIABLES,
)


def _version(module: str) -> str:
    try:
        return str(importlib.import_module(module).__version__)
    except ImportError:
        return ""


def software() -> Software:
    """Return versions, threads and GPUs."""
    torch_version = _version("torch")
    threads, gpus = 0, tuple[str, ...]()
    if torch_version:
        import torch  # noqa: PLC0415 - may be missing

        threads = torch.get_num_threads()
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = tuple(torch.cuda.get_device_name(index) for index in range(count))
    return Software(
        python=sys.version_info[:3],
        numpy=_version("numpy"),
        opencv=_version("cv2"),
        torch=torch_version,
        threads=threads,
        cpus=len(os.sched_getaffinity(0)),
        gpus=gpus,
        gpu_device_file=any(Path("/dev").glob("nvidia[0-9]*")),
    )


def ros() -> Ros:
    """Return what `import rclpy` gives, found out in a process of its own."""
    sourced = os.environ.get("ROS_DISTRO", "")
    try:
        run = subprocess.run(  # noqa: S603 - this interpreter, a constant program
            [sys.executable, "-c", ROS_PROBE],
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=ROS_PROBE_S,
        )
    except subprocess.TimeoutExpired:
        return _no_ros(f"importing rclpy took over {ROS_PROBE_S:g} s", sourced)
    if run.returncode:
        lines = [line for line in run.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit status {run.returncode}"
        return _no_ros(reason, sourced)
    found = json.loads(run.stdout.splitlines()[-1])
    return Ros(error="", sourced=sourced, **found)


def _no_ros(error: str, sourced: str) -> Ros:
    return Ros(error, version="", place="", from_index=False, middleware="", sourced=sourced)


def network() -> Network:
    """Return variables, shared memory and kernel buffers."""
    environ = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    return Network(environ, transport.shared_memory_bytes(), transport.kernel_facts())


def converter_note() -> str:
    """Return which converter `input.converter: auto` takes here, and why."""
    from seg_node.data.converters import choose_converter  # noqa: PLC0415 - needs cv2

    return choose_converter("auto").note


def models() -> Models:
    """Return every model that is found, its file's hash compared with its manifest."""
    from seg_node.nets.manifest import file_sha256, list_models, models_dir  # noqa: PLC0415 - torch

    try:
        folder, manifests = models_dir(), list_models()
    except SegNodeError as err:
        return Models((), "", str(err))
    files = []
    for manifest in manifests:
        path = folder / manifest.file
        problem = ""
        if not path.is_file():
            problem = f"{path} is missing"
        elif file_sha256(path) != manifest.sha256:
            problem = f"{path} differs from the hash in its manifest"
        files.append(ModelFile(manifest.name, problem))
    return Models(tuple(files), str(folder), "")


def write_problem(folder: Path) -> str:
    """Return why results cannot be written below `folder`, empty if they can."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place} is not a folder"
    return (
        "" if os.access(place, os.W_OK | os.X_OK) else f"{place} may not be written by this user"
    )
