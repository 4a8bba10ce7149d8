"""The files around the package agree with it: versions, dependencies, data, commands, sizes."""

from __future__ import annotations

import ast
from pathlib import Path
import re
import subprocess
import sys
from typing import cast, TYPE_CHECKING
from unittest import mock
from xml.etree import ElementTree as ET

import pytest

import seg_node

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]
MEGABYTE = 1_000_000

ROSDEP_KEYS = {
    "cv2": "python3-opencv",
    "jinja2": "python3-jinja2",
    "matplotlib": "python3-matplotlib",
    "numpy": "python3-numpy",
    "rich": "python3-rich",
    "ruamel": "python3-ruamel.yaml",
    "torch": "python3-torch",
    "typing_extensions": "python3-typing-extensions",
    "yaml": "python3-yaml",
}
"""Import name -> rosdep key, for what is not a ROS package (whose key is its name)."""

EXPORT = {"onnx", "onnxruntime", "onnxscript"}
"""Imports of `seg_node export`, its extra in setup.py."""

FLEET = {"dask", "distributed"}
"""Imports of `seg_node replay` with several recordings, its extra in setup.py."""

PIP_ONLY = {
    "av",
    "backports",
    "llvmlite",
    "numba",
    "rosbags",
    "safetensors",
    "triton",
    *EXPORT,
    *FLEET,
}
"""Imports without a usable rosdep key; the comment in package.xml names each of them."""

REQUIREMENTS = {
    "backports": "backports-zstd",
    "cv2": "opencv-python-headless",
    "ruamel": "ruamel-yaml",
    "typing_extensions": "typing-extensions",
    "yaml": "pyyaml",
}
"""Import name -> requirement, where they differ and it is not a ROS package."""

NEWER_PYTHON = {"compression"}
"""Modules of Python itself from 3.14 on, imported where they are there."""

ONLY_WITH_ROS = {"cv_bridge", "vision_msgs", "launch", "launch_ros", "ament_index_python"}
"""ROS packages that the package index lacks, or brings along; optional at run time."""


def read(name: str) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def manifest() -> ET.Element:
    """Return the root element of package.xml."""
    return ET.fromstring(read("package.xml"))  # noqa: S314 - the project's own file


@pytest.fixture(scope="module")
def setup_arguments() -> Mapping[str, object]:
    """Return what setup.py passes to setuptools, without running a command."""
    with mock.patch("setuptools.setup") as setup:
        code = compile(read("setup.py"), str(ROOT / "setup.py"), "exec")
        exec(code, {"__file__": str(ROOT / "setup.py"), "__name__": "__main__"})  # noqa: S102
    return cast("Mapping[str, object]", setup.call_args.kwargs)


def strip_version(requirement: str) -> str:
    """Return the name, extras included, of a line such as `torch>=2.4`."""
    return re.split(r"[<>=! ;]", requirement, maxsplit=1)[0]


def requirement_names() -> list[str]:
    """Return the names, extras included, of the lines in requirements.txt."""
    lines = (line.strip() for line in read("requirements.txt").splitlines())
    return [strip_version(line) for line in lines if line and not line.startswith("#")]


def pinned_names() -> set[str]:
    """Return the names that constraints.txt pins exactly."""
    return set(re.findall(r"^([a-z0-9-]+)==\S+", read("constraints.txt"), re.MULTILINE))


def third_party_imports() -> set[str]:
    """Return the first parts of all imported modules that are neither ours nor Python's."""
    names = set()
    for path in (ROOT / "seg_node").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - sys.stdlib_module_names - NEWER_PYTHON - {"seg_node"}


def requirement_for(name: str) -> str:
    """Return the requirement that brings an imported module."""
    if name in REQUIREMENTS or name in ROSDEP_KEYS or name in PIP_ONLY:
        return REQUIREMENTS.get(name, name)
    return "ros-" + name.replace("_", "-")


def test_versions_agree(manifest: ET.Element, setup_arguments: Mapping[str, object]) -> None:
    """One version everywhere, and the change log has a section for it."""
    version = seg_node.__version__
    assert manifest.findtext("version") == version
    assert setup_arguments["version"] == version
    assert re.search(rf"^## \[{re.escape(version)}\]", read("CHANGELOG.md"), re.MULTILINE)


def test_manifest_agrees_with_setup(
    manifest: ET.Element, setup_arguments: Mapping[str, object]
) -> None:
    """Name, licence, maintainer and build type are those that ROS tools expect."""
    assert manifest.get("format") == "3"
    assert manifest.findtext("name") == setup_arguments["name"] == "seg_node"
    assert manifest.findtext("license") == setup_arguments["license"] == "Apache-2.0"
    assert manifest.findtext("maintainer") == setup_arguments["maintainer"]
    assert manifest.findtext("export/build_type") == "ament_python"
    assert (ROOT / "resource" / "seg_node").read_bytes() == b""
    assert "Apache License" in read("LICENSE")


def test_data_files_are_all_there(setup_arguments: Mapping[str, object]) -> None:
    """Every file that lies in launch, config and models is installed below share/seg_node."""
    data_files = cast("list[tuple[str, list[str]]]", setup_arguments["data_files"])
    installed = dict(data_files)
    assert installed["share/ament_index/resource_index/packages"] == ["resource/seg_node"]
    assert installed["share/seg_node"] == ["package.xml"]
    for folder in ("launch", "config", "models"):
        present = {
            f"{folder}/{path.name}"
            for path in (ROOT / folder).glob("*")
            if path.is_file() and not path.name.startswith(".")
        }
        assert set(installed[f"share/seg_node/{folder}"]) == present


def test_every_import_is_a_dependency(manifest: ET.Element) -> None:
    """Whatever the package imports, rosdep or pip can install."""
    keys = {element.text for element in manifest if element.tag.endswith("depend")}
    missing = {
        name
        for name in third_party_imports() - PIP_ONLY
        if ROSDEP_KEYS.get(name, name) not in keys
    }
    assert not missing, "package.xml lacks them"
    comment = read("package.xml")
    assert all(re.search(rf"\b{name}\b", comment) for name in PIP_ONLY)
    have = {name.partition("[")[0] for name in requirement_names()}
    lacking = {
        name for name in third_party_imports() - ONLY_WITH_ROS if requirement_for(name) not in have
    }
    # builtin_interfaces and the like come with the messages that use them.
    assert {name for name in lacking if requirement_for(name) not in pinned_names()} == set()


def test_every_requirement_is_imported(setup_arguments: Mapping[str, object]) -> None:
    """Nobody installs what nothing imports."""
    run_time = cast("list[str]", setup_arguments["install_requires"])
    used = {requirement_for(name) for name in third_party_imports()}
    assert {strip_version(name) for name in run_time} - used == set()


def test_requirements_are_those_of_setup(setup_arguments: Mapping[str, object]) -> None:
    """requirements.txt is setup.py's requirements, some of its extras, and tools."""
    names = requirement_names()
    run_time = cast("list[str]", setup_arguments["install_requires"])
    extras = cast("dict[str, list[str]]", setup_arguments["extras_require"])
    assert [name for name in names if name.startswith("ros-")] == extras["ros"]
    assert sorted(EXPORT) == extras["export"]
    assert sorted(FLEET) == extras["fleet"]
    assert set(names) >= EXPORT | FLEET
    assert names[: len(run_time)] == [strip_version(name) for name in run_time]
    assert {name.partition("[")[0] for name in names} <= pinned_names()


def test_constraints_pin_exactly() -> None:
    """Every line is one exact pin, perhaps for some Pythons; no name is pinned twice for one."""
    lines = [s for s in read("constraints.txt").splitlines() if s and not s.startswith("#")]
    pin = re.compile(r"([a-z0-9-]+)==[\w.]+( ; python_version (<|>=) '3\.11')?")
    matches = [pin.fullmatch(line) for line in lines]
    assert [line for line, found in zip(lines, matches, strict=True) if not found] == []
    plain = [found[1] for found in matches if found and not found[2]]
    marked = {found[1] for found in matches if found and found[2]}
    assert len(plain) == len(set(plain))
    assert not marked & set(plain)
    assert "torch==2.13.0" in lines


def make_targets() -> set[str]:
    """Return the targets that `make help` lists."""
    return set(re.findall(r"^([.a-z_-]+):.*## ", read("Makefile"), re.MULTILINE))


def documents() -> list[Path]:
    """Return the documents that tell people what to type."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def make_commands(text: str) -> Iterator[str]:
    """Yield the target of every `make ...` in the code spans and blocks of a document."""
    for span in re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL):
        for command in re.findall(r"(?:^|[`;&(]|\n)\s*(?:\$ )?make ([^\n`;&|#)]*)", span):
            words = re.sub(r"""\w+=("[^"]*"|'[^']*'|\S*)""", "", command).split()
            yield from (word for word in words if not word.startswith("-"))


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_documented_commands_exist(path: Path) -> None:
    """Each make target that a document names is one that `make help` lists."""
    assert set(make_commands(path.read_text(encoding="utf-8"))) <= make_targets()


def test_make_commands_reads_spans_and_blocks() -> None:
    """The reader of documents finds targets and skips variables, options and prose."""
    text = (
        "make haste; `make format lint` and `make demo SOURCE=a.mp4`\n"
        "```sh\ncd x && make .venv PYTHON=python3.12\nmake -j2 test ARGS='-k a'  # note\n```\n"
    )
    assert list(make_commands(text)) == ["format", "lint", "demo", ".venv", "test"]


def test_tracked_files_are_small() -> None:
    """No tracked file exceeds 30 MB, and all models together stay below 60 MB."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"],  # noqa: S607 - the git of whoever runs the tests
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    sizes = {
        name: (ROOT / name).stat().st_size
        for name in listing.stdout.split("\0")
        if name and (ROOT / name).is_file()
    }
    assert {name for name, size in sizes.items() if size > 30 * MEGABYTE} == set()
    models = [size for name, size in sizes.items() if name.startswith("models/")]
    assert sum(models) < 60 * MEGABYTE
