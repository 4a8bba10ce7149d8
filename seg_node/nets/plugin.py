"""A user's own network, named `module:function`: imported, built, and its face checked.

The function takes the number of classes and returns a `torch.nn.Module` with the face of
`core.execution.SegmentationNetwork`. A manifest may hold such a name too, and then loading the
model runs that function: whoever names a network names code.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from typing import cast, TYPE_CHECKING

import torch
from torch import nn, Tensor

from seg_node.core.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from seg_node.core.execution import SegmentationNetwork

FACE = ("classes", "stride", "feature_channels", "features", "head")
"""What a network has besides `forward`; see `core.execution.SegmentationNetwork`."""

PROBES = (
    torch.arange(3 * 64 * 64).view(1, 3, 64, 64).remainder(251).to(torch.uint8),
    torch.arange(3 * 57 * 75).view(1, 3, 57, 75).remainder(251).float(),
)
"""Images that a new network must get right: as a camera gives them, and of odd size."""


def build_plugin(name: str, classes: int) -> nn.Module:
    """Import and call `module:function`, and check what it returns.

    Errors that the user's own code raises while it builds pass through with their traceback.

    Args:
        name: `module:function`; the module is importable, its folder on PYTHONPATH.
        classes: passed to the function.

    Raises:
        ModelError: the module or function cannot be had, or the network lacks something; the
            text names it.

    """
    net = find_function(name)(classes)
    check_face(name, net, classes)
    return cast("nn.Module", net)


def find_function(name: str) -> Callable[[int], object]:
    """Import the function that `module:function` names.

    Raises:
        ModelError: not such a name, the import fails, or it takes other than one argument.

    """
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name):
        msg = f"network {name!r} is not of the form module:function, such as my_nets:small"
        raise ModelError(msg)
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as err:
        msg = f"network {name!r}: cannot import {module_name}: {err}; {_advice(err, module_name)}"
        raise ModelError(msg) from err
    function = getattr(module, function_name, None)
    if not callable(function):
        msg = f"network {name!r}: {module.__file__} has no function {function_name}"
        raise ModelError(msg)
    try:
        inspect.signature(function).bind(0)
    except TypeError as err:
        msg = f"network {name!r}: the function must take the number of classes alone: {err}"
        raise ModelError(msg) from err
    return cast("Callable[[int], object]", function)


def _advice(err: ImportError | SyntaxError, module: str) -> str:
    """Tell a module that is not found from one that needs something or is broken."""
    if not isinstance(err, ModuleNotFoundError):
        return "mend the module"
    if err.name and f"{module}.".startswith(f"{err.name}."):
        return "put the folder it lies in on PYTHONPATH"
    return f"install {err.name}"


def check_face(name: str, net: object, classes: int) -> None:
    """Check that a network has what training, evaluation and the node use.

    Args:
        name: for the error.
        net: what a network's constructor returned.
        classes: number of classes it was built for.

    Raises:
        ModelError: something is missing or has another shape; the text says what.

    """
    problem = _problem_of(net, classes)
    if problem:
        msg = f"network {name!r} {problem}; examples/README.md says what a network needs"
        raise ModelError(msg)


def _problem_of(net: object, classes: int) -> str:
    """Return what is wrong with a network, or nothing."""
    if not isinstance(net, nn.Module):
        return f"is a {type(net).__name__}, not a torch.nn.Module"
    missing = [part for part in FACE if not hasattr(net, part)]
    if missing:
        return f"lacks {', '.join(missing)}"
    face = cast("SegmentationNetwork", net)
    if face.classes != classes:
        return f"was built for {classes} classes, but its `classes` is {face.classes}"
    if not isinstance(face.stride, int) or face.stride < 1 or face.stride.bit_count() != 1:
        return f"has stride {face.stride!r}, which is not a power of two"
    trial = copy.deepcopy(net).eval()
    with torch.inference_mode():
        for image in PROBES:
            try:
                problem = _problem_with(trial, image)
            except (RuntimeError, TypeError, ValueError) as err:
                problem = f"fails: {err}"
            if problem:
                kind = str(image.dtype).removeprefix("torch.")
                return f"on a {kind} image {list(image.shape)} {problem}"
    return ""


def _problem_with(net: nn.Module, image: Tensor) -> str:
    """Return what is wrong with the outcome for one image, or nothing."""
    face = cast("SegmentationNetwork", net)
    features = face.features(image)
    size = tuple(-(-side // face.stride) for side in image.shape[-2:])
    if features.shape != (1, face.feature_channels, *size):
        expected = [1, face.feature_channels, *size]
        return f"has features {list(features.shape)}, expected {expected}, by its stride"
    logits = face.head(features)
    if logits.shape != (1, face.classes, *size):
        return f"has logits {list(logits.shape)}, expected {[1, face.classes, *size]}"
    if not logits.isfinite().all():
        return "gives logits that are not finite"
    if not torch.equal(net(image), logits):
        return "gives something else by `forward` than by `head(features(image))`"
    return ""
