"""Hyper-parameters of training."""

from __future__ import annotations

from dataclasses import dataclass, field
import math


@dataclass(frozen=True)
class Augmentation:
    """How samples are varied.

    Attributes:
        crop: (width, height) of the training crop, in pixels.
        early_crop: the same for the first `early_steps` steps, smaller and so cheaper.
        early_steps: number of those steps.
        scale: range of the random resize factor, drawn log-uniformly.
        jitter: largest relative change of brightness, contrast and saturation.

    """

    crop: tuple[int, int] = (448, 320)
    early_crop: tuple[int, int] = (320, 240)
    early_steps: int = 0
    scale: tuple[float, float] = (0.5, 2.0)
    jitter: float = 0.4

    def crop_at(self, step: int) -> tuple[int, int]:
        """Return (width, height) of the crop at a step."""
        return self.early_crop if step < self.early_steps else self.crop


@dataclass(frozen=True)
class SegmentTraining:
    """Hyper-parameters of one run; all of them are written beside the weights.

    Attributes:
        steps: optimiser steps.
        batch: samples in a step.
        learning_rate: peak of AdamW's learning rate.
        weight_decay: AdamW's decay of convolution weights (not of BatchNorm and biases).
        warmup: steps of linear warm-up; a half cosine to zero follows.
        average: decay per step of the exponential moving average that is shipped.
        jaccard: weight of the soft Jaccard loss beside the cross entropy.
        softness: flatness of the class weights, see `losses.class_weights`.
        street_share: probability that a sample is a rendered street.
        streets: number of different rendered streets.
        augmentation: how samples are varied.
        seed: seed of weights, batches and augmentation.
        checkpoint_every: steps between checkpoints.
        validate_every: steps between validations.

    """

    steps: int = 3000
    batch: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    warmup: int = 150
    average: float = 0.995
    jaccard: float = 0.5
    softness: float = 1.1
    street_share: float = 0.2
    streets: int = 300
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(early_steps=1400))
    seed: int = 0
    checkpoint_every: int = 100
    validate_every: int = 250

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
