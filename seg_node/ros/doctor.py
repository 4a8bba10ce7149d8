"""`seg_node doctor`: says in plain words what is here, and what to do about what is wrong.

`doctor_facts` and `doctor_topic` find out; each check here is a function of what they found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
import json
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from seg_node.ros import doctor_facts, doctor_topic, image_topics, transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from seg_node.ros.doctor_facts import Models, Network, Ros, Software
    from seg_node.ros.doctor_topic import Topic

OLDEST_PYTHON = (3, 10)
LARGEST_DOMAIN = 101
"""Above it, the ports of a domain collide with those that Linux hands out by itself."""
ROOMY_SHARED_MEMORY = 8 * transport.SEGMENT_BYTES
GOOD_RECEIVE_BUFFER = 16 * 2**20
LOSSY = 1.5
"""So many times more images over a reliable subscription mean that best effort loses them."""
RELEASES = {"3": "Humble", "4": "Iron", "7": "Jazzy", "9": "Kilted"}
"""ROS distribution by the first number of rclpy's version."""
MEBIBYTE = 2**20


class Level(Enum):
    """How good a finding is; only `BAD` prevents the node from running."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the report; `fix` says what to do, empty if nothing needs doing."""

    level: Level
    subject: str
    text: str
    fix: str = ""


def good(subject: str, text: str) -> Finding:
    """Return a finding that needs nothing done."""
    return Finding(Level.GOOD, subject, text)


def note(subject: str, text: str, fix: str) -> Finding:
    """Return a finding that is worth knowing."""
    return Finding(Level.NOTE, subject, text, fix)


def bad(subject: str, text: str, fix: str) -> Finding:
    """Return a finding that prevents the node from running."""
    return Finding(Level.BAD, subject, text, fix)


def check_software(facts: Software) -> Iterator[Finding]:
    """Judge Python, NumPy, OpenCV, torch and the GPU."""
    version = ".".join(map(str, facts.python))
    if facts.python[:2] < OLDEST_PYTHON:
        yield bad("Python", f"{version} is too old", "Make the environment with Python 3.11.")
    else:
        yield good("Python", version)
    for name, found in (("NumPy", facts.numpy), ("OpenCV", facts.opencv), ("torch", facts.torch)):
        if not found:
            yield bad(name, "cannot be imported", "Run make .venv, which installs everything.")
    if facts.numpy and facts.opencv:
        yield good("NumPy and OpenCV", f"{facts.numpy} and {facts.opencv}")
    if facts.torch:
        yield from _check_torch(facts)


def _check_torch(facts: Software) -> Iterator[Finding]:
    yield good("torch", f"{facts.torch}, {facts.threads} threads on {facts.cpus} CPUs")
    if facts.gpus:
        yield good("GPU", ", ".join(facts.gpus))
    elif facts.gpu_device_file:
        yield note(
            "GPU",
            "there is an NVIDIA device, but torch cannot use it: the node computes on the CPU",
            "Install a torch build with CUDA that fits the driver (docs/installation.md).",
        )
    else:
        yield good("GPU", "none: the node computes on the CPU")


def check_ros(facts: Ros) -> Iterator[Finding]:
    """Judge whether rclpy works, and where it comes from."""
    if facts.error:
        yield bad(
            "ROS",
            f"rclpy cannot be used: {facts.error}",
            "Source an installed ROS (. /opt/ros/DISTRO/setup.sh), or run make .venv with Python "
            "3.11 or newer, which installs it; replay and evaluate work without.",
        )
        return
    release = RELEASES.get(facts.version.partition(".")[0], "")
    origin = "packages of the package index" if facts.from_index else facts.place
    yield good("ROS", " ".join(f"{release} rclpy {facts.version} from {origin}".split()))
    if facts.sourced and facts.from_index:
        yield note(
            "ROS",
            f"{facts.sourced} is sourced, but rclpy comes from the package index: two ROS mix",
            "Use a shell without it, or rm -r .venv and run make .venv, which then uses it.",
        )
    yield good("middleware", facts.middleware)


def check_transport(facts: Network, middleware: str) -> Iterator[Finding]:
    """Judge whether large images can pass between processes of this machine."""
    if middleware and middleware not in transport.FAST_DDS:
        yield good("transport", f"{middleware} has its own; the shipped setting is for Fast DDS")
        return
    value = facts.environ.get(transport.VARIABLE, "")
    profile = next((facts.environ.get(n, "") for n in transport.PROFILE_VARIABLES), "")
    if transport.is_local_only(facts.environ):
        yield note(
            "transport",
            "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST makes Fast DDS ignore transport settings: "
            "images of more than half a megabyte get lost",
            "Unset it, and keep to this machine with a ROS_DOMAIN_ID of your own, or with "
            f"{transport.VARIABLE}='{transport.LOCAL_ONLY}'.",
        )
    elif value or profile:
        shown = f"{transport.VARIABLE}={value}" if value else f"XML profile {profile}"
        yield good("transport", f"{shown}{' (shipped)' if value == transport.SHIPPED else ''}")
    else:
        yield note(
            "transport",
            f"{transport.VARIABLE} is not set in this shell; launch file and demo set it for "
            "what they start, but a camera started from here loses images over half a megabyte",
            f"Before you start the camera: export {transport.VARIABLE}='{transport.SHIPPED}'",
        )
    yield _check_shared_memory(facts.shared_memory_bytes)


def _check_shared_memory(size: int | None) -> Finding:
    if size is None:
        return note(
            "shared memory",
            "there is no /dev/shm: images take the network stack",
            "Mount a tmpfs on /dev/shm; on other systems than Linux, set nothing.",
        )
    text = f"{transport.SHARED_MEMORY} has {size / MEBIBYTE:,.0f} MB"
    segment = transport.SEGMENT_BYTES // MEBIBYTE
    if size < ROOMY_SHARED_MEMORY:
        return note(
            "shared memory",
            f"{text}, and every ROS process takes {segment} MB of it",
            f"Give it {ROOMY_SHARED_MEMORY // MEBIBYTE} MB or more: mount -o "
            "remount,size=1g /dev/shm, or docker run --shm-size=1g (or --ipc=host).",
        )
    return good("shared memory", f"{text}; every ROS process takes {segment} MB of it")


def check_kernel(facts: Network) -> Iterator[Finding]:
    """Judge the kernel's buffers, which matter for cameras on other machines."""
    largest = facts.kernel.get("net.core.rmem_max")
    if largest is None:
        yield good("kernel buffers", "not readable here")
    elif largest < GOOD_RECEIVE_BUFFER:
        yield note(
            "kernel buffers",
            f"net.core.rmem_max is {largest / MEBIBYTE:.1f} MB: large images from another machine "
            "may get lost",
            "For a camera on another machine: sysctl -w net.core.rmem_max=33554432 "
            "net.ipv4.ipfrag_time=3 net.ipv4.ipfrag_high_thresh=134217728 (docs/transport.md).",
        )
    else:
        yield good("kernel buffers", f"net.core.rmem_max is {largest / MEBIBYTE:.0f} MB")


def check_discovery(facts: Network) -> Iterator[Finding]:
    """Judge domain and discovery range."""
    domain = facts.environ.get("ROS_DOMAIN_ID", "0")
    reach = facts.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    if facts.environ.get("ROS_LOCALHOST_ONLY") == "1":
        reach = "LOCALHOST"
    if not domain.isdigit() or int(domain) > LARGEST_DOMAIN:
        yield bad(
            "discovery",
            f"ROS_DOMAIN_ID is {domain!r}",
            f"Set ROS_DOMAIN_ID to a number from 0 to {LARGEST_DOMAIN}.",
        )
    elif reach.upper() == "OFF":
        yield bad(
            "discovery",
            "ROS_AUTOMATIC_DISCOVERY_RANGE=OFF hides all nodes from each other",
            "Unset ROS_AUTOMATIC_DISCOVERY_RANGE, or set it to SUBNET.",
        )
    else:
        where = "this machine only" if reach.upper() == "LOCALHOST" else "all machines in reach"
        yield good("discovery", f"domain {domain}, {reach.upper()}: {where}")


def check_models(facts: Models) -> Iterator[Finding]:
    """Judge whether the shipped models are there and whole."""
    if facts.problem:
        yield bad("models", facts.problem, "Restore the folder models/ of the package.")
    for item in facts.files:
        if item.problem:
            yield bad(
                f"model {item.name}", item.problem, "Restore the file: git checkout -- models"
            )
        else:
            yield good(f"model {item.name}", f"hash verified, in {facts.folder}")


def check_output(folder: Path, problem: str) -> Iterator[Finding]:
    """Judge whether results can be written."""
    if problem:
        yield bad("results", problem, "Run from a folder that you may write, or use --out DIR.")
    else:
        yield good("results", f"{folder} can be written")


def check_topic(facts: Topic, supported: tuple[str, ...]) -> Iterator[Finding]:
    """Judge whether the node will get images from a topic.

    Args:
        facts: what was found.
        supported: encodings of raw images that the node converts.

    """
    if not facts.publishers:
        listed = ", ".join(facts.others) if facts.others else "none"
        yield bad(
            facts.name,
            f"nobody publishes here; topics with images: {listed}",
            "Start the camera, check its name with --topic, and that it has the same "
            "ROS_DOMAIN_ID.",
        )
        return
    for item in facts.publishers:
        yield from _check_publisher(facts.name, item)
    if facts.best_effort is not None:
        yield _check_arrivals(facts)
    raw = any(item.type == image_topics.TYPES["raw"] for item in facts.publishers)
    if raw and facts.encoding and facts.encoding not in supported:
        yield bad(
            facts.name,
            f"encoding {facts.encoding!r} cannot be converted",
            f"Set the camera to one of {', '.join(supported)}.",
        )


def _check_publisher(topic: str, item: doctor_topic.Publisher) -> Iterator[Finding]:
    text = f"{item.node} publishes {item.type}, {item.reliability}, {item.durability}"
    kind = image_topics.transport_of(item.type)
    if kind is None:
        yield bad(topic, text, f"Choose a topic of {', '.join(image_topics.TYPES.values())}.")
    elif item.mismatch:
        yield bad(
            topic,
            f"{text}; the node's subscription does not fit: {item.mismatch}",
            "Change the camera's QoS, or override the node's: parameters qos_overrides.* "
            "(docs/transport.md).",
        )
    elif kind != "raw":
        base = topic.removesuffix(f"/{kind}")
        yield note(
            topic, text, f"Set the parameter input.transport to {kind} and image to {base}."
        )
    else:
        yield good(topic, text)


def _check_arrivals(facts: Topic) -> Finding:
    assert facts.best_effort is not None
    rate = f"{facts.best_effort.rate_hz:.1f} images/s of {facts.image}"
    best, reliable = facts.best_effort.count, facts.reliable.count if facts.reliable else 0
    if not best and not reliable:
        return bad(
            facts.name,
            "there is a publisher, but no image arrives",
            "Check that the camera is streaming; if it is, start it with "
            f"{transport.VARIABLE}='{transport.SHIPPED}' (docs/transport.md).",
        )
    if reliable <= LOSSY * best:
        return good(facts.name, f"{rate} arrive here")
    fix = (
        f"Start the camera with {transport.VARIABLE}='{transport.SHIPPED}' (docs/transport.md), "
        f"or set the node's parameter qos_overrides.{facts.name}.subscription.reliability to "
        "reliable."
    )
    if best:
        return note(facts.name, f"only {rate} arrive: most get lost on the way", fix)
    text = f"images are sent ({facts.image}), but none arrives best effort, as the node asks for"
    return bad(facts.name, text, fix)


def examine(topic: str | None) -> Iterator[Finding]:
    """Yield all findings, in the order of the report."""
    software = doctor_facts.software()
    yield from check_software(software)
    ros = doctor_facts.ros()
    yield from check_ros(ros)
    network = doctor_facts.network()
    yield from check_transport(network, ros.middleware)
    yield from check_kernel(network)
    yield from check_discovery(network)
    if software.numpy and software.opencv:
        yield good("image converter", doctor_facts.converter_note())
    if software.torch:
        yield from check_models(doctor_facts.models())
    out = Path("out").resolve()
    yield from check_output(out, doctor_facts.write_problem(out))
    if topic and not ros.error:
        yield from _examine_topic(topic)


def _examine_topic(topic: str) -> Iterator[Finding]:
    from seg_node.data.raw_images import SUPPORTED_ENCODINGS  # noqa: PLC0415 - needs cv2

    yield from check_topic(doctor_topic.look_at(topic), SUPPORTED_ENCODINGS)


def _printer() -> Callable[[Finding], None]:
    """Return what prints a finding: marks and colours on a terminal, words elsewhere."""
    from rich.console import Console  # noqa: PLC0415 - seg_node --help stays fast
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=sys.stdout)
    marks = {Level.GOOD: ("✓", "green"), Level.NOTE: ("!", "yellow"), Level.BAD: ("✗", "bold red")}

    def show(item: Finding) -> None:
        mark, style = marks[item.level]
        word = mark if console.is_terminal else f"{item.level.value}:"
        line = Text.assemble((word, style), " ", (item.subject, "bold"), f": {item.text}")
        console.print(line, soft_wrap=True)
        if item.fix:
            console.print(Text(f"    {item.fix}"), soft_wrap=True)

    return show


def run_doctor(topic: str | None, *, json_path: Path | None = None) -> int:
    """Print what is here and what to do about what is wrong.

    Args:
        topic: an image topic to look at, too; takes some seconds more.
        json_path: file for the findings, `{"ok": ..., "findings": [...]}`.

    Returns:
        0 if nothing prevents the node from running, else 1.

    """
    show = _printer()
    findings = []
    for item in examine(topic):
        findings.append(item)
        show(item)
    count = sum(item.level is Level.BAD for item in findings)
    ending = "Nothing is in the way." if not count else f"In the way: {count}, see above."
    print(ending)  # noqa: T201 - the report is the purpose
    if json_path is not None:
        rows = [{**asdict(item), "level": item.level.value} for item in findings]
        text = json.dumps({"ok": not count, "findings": rows}, indent=1)
        json_path.write_text(text + "\n", encoding="utf-8")
    return 1 if count else 0
