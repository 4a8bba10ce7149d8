"""What a run needs: the model, a segmenter per mode, and a description of the device.

Modes are compared side by side: every frame goes through each of them before the next one comes,
so that whatever else the machine does hits all alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import time
from typing import TYPE_CHECKING

import torch

from seg_node.core.heap import keep_freed_memory
from seg_node.core.pipeline import Segmenter
from seg_node.core.policy import Remembers
from seg_node.core.types import ConfigError
from seg_node.eval.energy import find_meter
from seg_node.nets.build import build_kernels, build_policies, Model, model_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import nn

    from seg_node.core.config import Config
    from seg_node.core.policy import BlockPolicy
    from seg_node.core.threads import Cores
    from seg_node.core.types import Frame, StepResult
    from seg_node.data.datasets import Sample
    from seg_node.eval.energy import Meter
    from seg_node.nets.manifest import Manifest


@dataclass(frozen=True)
class Session:
    """A loaded model ready to step.

    Attributes:
        segmenter: the pipeline.
        manifest: the model that it runs.
        config: settings in force.
        device: device, number format and threads, in words.
        meter: counts the energy of this machine; None where nothing does.

    """

    segmenter: Segmenter
    manifest: Manifest
    config: Config
    device: str
    meter: Meter | None = None

    def step(self, frame: Frame) -> StepResult:
        """Lead a frame through the pipeline; the report has its energy where it is measured."""
        return metered(lambda: self.segmenter.step(frame), self.meter)

    @property
    def remembers(self) -> bool:
        """Whether a frame's result depends on the frames before it."""
        policy = self.segmenter.policies[self.config.mode]
        return policy.remembers is not Remembers.NOTHING


def metered(step: Callable[[], StepResult], meter: Meter | None) -> StepResult:
    """Take a step and note in its report what energy the machine has used meanwhile."""
    if meter is None:
        return step()
    before = meter.joules()
    result = step()
    return replace(result, report=replace(result.report, joules=meter.joules() - before))


def parse_modes(text: str) -> tuple[str, ...]:
    """Return the modes of a comma list such as `dense,warp`, in its order.

    Whether there are such modes is for `Config` to say.

    Raises:
        ConfigError: a mode is named twice.

    """
    modes = tuple(name.strip() for name in text.split(","))
    for mode in modes:
        if modes.count(mode) > 1:
            msg = f"mode {mode!r} is named {modes.count(mode)} times in {text!r}; once is enough"
            raise ConfigError(msg)
    return modes


def open_session(config: Config) -> Session:
    """Load the model of a config and build its pipeline.

    Raises:
        ModelError: the model cannot be loaded.
        ConfigError: the device or precision is not to be had here.

    """
    return open_sessions(config)[config.mode]


def open_sessions(config: Config, modes: Sequence[str] = ()) -> dict[str, Session]:
    """Load the model of a config once and build a pipeline of every mode around it.

    Args:
        config: settings of all sessions.
        modes: modes to take in place of the config's own, in the order in which results list
            them; none for the config's own alone.

    Returns:
        The sessions by mode. They share the weights and nothing else.

    Raises:
        ModelError: the model cannot be loaded.
        ConfigError: there is no such mode, or the device or precision is not to be had here.

    """
    configs = _configs(config, modes)  # refuses a mode that is none before the model is loaded
    model = open_model(config)
    return {own.mode: build_session(model, own) for own in configs}


def open_model(config: Config) -> Model:
    """Load the model of a config, to be run by as many threads as it says.

    Raises:
        ConfigError: TensorRT is asked for where it is not to be had.
        ModelError: the model, or an engine of it, cannot be loaded.

    """
    keep_freed_memory()
    if config.threads:
        torch.set_num_threads(config.threads)
    return model_for(config)


def sessions_of(model: Model, config: Config, modes: Sequence[str] = ()) -> dict[str, Session]:
    """Build a pipeline of every mode around a loaded model; see `open_sessions`."""
    return {own.mode: build_session(model, own) for own in _configs(config, modes)}


def _configs(config: Config, modes: Sequence[str]) -> list[Config]:
    return [config.updated({"mode": mode}) for mode in modes or (config.mode,)]


def open_network(net: nn.Module, manifest: Manifest, config: Config) -> Session:
    """Build a pipeline around a network alone, for modes that need nothing else of a model.

    Args:
        net: in eval mode.
        manifest: what is known of it.
        config: settings.

    Raises:
        ConfigError: the mode needs more, or the device or precision is not to be had here.

    """
    return build_session(Model(net, manifest), config)


def common(sessions: Mapping[str, Session]) -> Session:
    """Return a session that speaks for all: model, device and most settings are common."""
    return next(iter(sessions.values()))


def build_session(
    model: Model,
    config: Config,
    policies: Mapping[str, BlockPolicy] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
    cores: Cores | None = None,
) -> Session:
    """Build a pipeline around a loaded model.

    Args:
        model: a loaded model.
        config: settings.
        policies: what chooses the plans, by mode; None for those of the model.
        clock: nanoseconds that never go back, by which steps are timed.
        cores: see `Segmenter`; None where results are to be the same in every run.

    Raises:
        ConfigError: the model cannot run the mode, or the device or precision is not to be had
            here.

    """
    policies = build_policies(model, config) if policies is None else policies
    kernels = build_kernels(model, config)
    segmenter = Segmenter(
        model.net, policies, config, model.low, clock, kernels=kernels, cores=cores
    )
    dtype = str(segmenter.compute.dtype).removeprefix("torch.")
    device = f"{segmenter.compute.device} {dtype}"
    if segmenter.compute.device.type == "cpu":
        device += f", {torch.get_num_threads()} threads"
    else:
        device += f", {torch.cuda.get_device_name(segmenter.compute.device)}"
    return Session(segmenter, model.manifest, config, device, find_meter())


def steps(
    samples: Iterable[Sample], sessions: Mapping[str, Session], done: int = 0
) -> Iterator[tuple[Sample, dict[str, StepResult]]]:
    """Yield each frame with its result in every mode, in the order of the sessions.

    A new size is warmed up in every mode first, and the modes take turns in being the first one
    to see a frame, whose pixels are in no cache yet: so times are honest.

    Args:
        samples: the frames, in time order.
        sessions: model and settings by mode.
        done: so many frames at the start are known already: only the modes that remember step
            through them, so that they remember the same, and only those have a result.

    """
    modes = list(sessions)
    size: tuple[int, ...] = ()
    for index, sample in enumerate(samples):
        if sample.frame.image.shape != size:
            size = sample.frame.image.shape
            for session in sessions.values():
                session.segmenter.warm_up(size[0], size[1])
        first = index % len(modes)
        turns = (*modes[first:], *modes[:first])
        chosen = [mode for mode in turns if index >= done or sessions[mode].remembers]
        results = {mode: sessions[mode].step(sample.frame) for mode in chosen}
        yield sample, {mode: results[mode] for mode in modes if mode in results}
