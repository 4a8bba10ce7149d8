"""Install seg_node: with colcon (ament_python), with pip as a wheel, or editable.

The metadata lives here and not in pyproject.toml because ament_python reads it from here.
Models, presets and launch files land in `<prefix>/share/seg_node` in every kind of install.
"""

from __future__ import annotations

from pathlib import Path
import re

from setuptools import find_packages, setup

PACKAGE = "seg_node"
ROOT = Path(__file__).resolve().parent
SHARE = f"share/{PACKAGE}"


def read_version() -> str:
    """Return `__version__` of the package without importing it."""
    text = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        msg = f'{PACKAGE}/__init__.py has no line __version__ = "..."'
        raise RuntimeError(msg)
    return found[1]


def data_files(folder: str, *patterns: str) -> tuple[str, list[str]]:
    """Return (install folder, files) for what matches in one folder of the source."""
    found = {path for pattern in patterns for path in (ROOT / folder).glob(pattern)}
    return f"{SHARE}/{folder}", sorted(str(path.relative_to(ROOT)) for path in found)


setup(
    name=PACKAGE,
    version=read_version(),
    description="Semantic segmentation of camera topics that spends compute where it is needed",
    maintainer="seg_node maintainers",
    maintainer_email="maintainers@seg-node.example",
    license="Apache-2.0",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={f"{PACKAGE}.eval": ["page/*"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (SHARE, ["package.xml"]),
        data_files("launch", "*.launch.py"),
        data_files("config", "*.yaml", "*.rviz"),
        data_files("models", "*.safetensors", "*.json", "*.md"),
    ],
    zip_safe=False,
    python_requires=">=3.10",
    install_requires=[
        "av",
        'backports-zstd; python_version < "3.14"',
        "jinja2",
        "llvmlite",
        "numba",
        "numpy",
        "opencv-python-headless",
        "rich",
        "rosbags",
        "ruamel-yaml",
        "safetensors",
        "torch>=2.4",
        'typing-extensions; python_version < "3.11"',
    ],
    extras_require={
        # ROS 2 from the package index, where no ROS is installed (CPython 3.11 or newer).
        "ros": [
            "ros-diagnostic-msgs",
            "ros-lifecycle-msgs",
            "ros-rcl-interfaces",
            "ros-rclpy[fastrtps]",
            "ros-rosgraph-msgs",
            "ros-sensor-msgs",
            "ros-std-msgs",
            "ros-std-srvs",
        ],
        # Kernels for GPUs; torch with CUDA on Linux brings it along.
        "gpu": ['triton>=3.4; platform_system == "Linux"'],
        # `seg_node export`; it is tried with the torch of constraints.txt.
        "export": ["onnx", "onnxruntime", "onnxscript"],
        # `seg_node replay` of several recordings.
        "fleet": ["dask", "distributed"],
        # Event files of `seg_node train`; without it there is log.jsonl alone.
        "train": ["tensorboard"],
    },
    entry_points={
        "console_scripts": [
            "seg_node = seg_node.cli:main",
            "segmentation_node = seg_node.ros.node:main",
        ],
    },
)
