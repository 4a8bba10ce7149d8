"""Rules that a run must keep, for scripts: `--require "miou_drop<=1.0,p95_ms<=33"`."""

from __future__ import annotations

from dataclasses import dataclass
import math
import operator
import re
from typing import Any, TYPE_CHECKING

from seg_node.core.types import ConfigError
from seg_node.eval.results import DENSE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

VERDICTS = "verdicts"
"""Key of `results.json` and of the rows of `sweep.json`."""
POINT = 0.01
"""One point of mIoU."""
_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_RULE = re.compile(r"\s*([a-z0-9_]+)\s*(<=|>=|<|>)\s*(\S+)\s*")


def _at(*path: str) -> Callable[[Mapping[str, Any], Mapping[str, Any] | None], float | None]:
    """Return what reads a figure of a mode's entry; None where a part of the path is null."""

    def read(entry: Mapping[str, Any], dense: Mapping[str, Any] | None) -> float | None:  # noqa: ARG001 - the same for all
        value: Any = entry
        for key in path:
            value = None if value is None else value[key]
        return None if value is None else float(value)

    return read


def _miou_drop(entry: Mapping[str, Any], dense: Mapping[str, Any] | None) -> float | None:
    """Return how many points of mIoU a mode loses against dense; negative where it gains."""
    if dense is None or dense["miou"] is None or entry["miou"] is None:
        return None
    return float(dense["miou"] - entry["miou"]) / POINT


def _dropped_share(entry: Mapping[str, Any], dense: Mapping[str, Any] | None) -> float | None:  # noqa: ARG001 - the same for all
    total = entry["frames"] + entry["dropped"]
    return entry["dropped"] / total if total else None


FIGURES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any] | None], float | None]] = {
    "miou": _at("miou"),
    "miou_drop": _miou_drop,
    "pixel_accuracy": _at("pixel_accuracy"),
    "agreement_pixel": _at("agreement", "pixel"),
    "agreement_miou": _at("agreement", "miou"),
    "p50_ms": _at("ms", "p50"),
    "p95_ms": _at("ms", "p95"),
    "p99_ms": _at("ms", "p99"),
    "max_ms": _at("ms", "max"),
    "mean_ms": _at("ms", "mean"),
    "fps": _at("fps"),
    "speedup": _at("speedup_vs_dense"),
    "age_p50_ms": _at("age_ms", "p50"),
    "age_p95_ms": _at("age_ms", "p95"),
    "age_max_ms": _at("age_ms", "max"),
    "lateness_p50_ms": _at("lateness_ms", "p50"),
    "lateness_p95_ms": _at("lateness_ms", "p95"),
    "lateness_p99_ms": _at("lateness_ms", "p99"),
    "lateness_max_ms": _at("lateness_ms", "max"),
    "gmac": _at("gmac_per_frame"),
    "gmac_saving": _at("gmac_saving"),
    "frames": _at("frames"),
    "dropped": _at("dropped"),
    "dropped_share": _dropped_share,
}
"""What a rule may name; docs/replay.md says what each is."""

ACCURACY = frozenset({"miou", "miou_drop", "pixel_accuracy", "agreement_pixel", "agreement_miou"})
"""Figures whose rule says what may be lost."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        figure: one of `FIGURES`.
        comparison: `<=`, `>=`, `<` or `>`.
        limit: what the figure is compared with, in its unit.

    """

    figure: str
    comparison: str
    limit: float

    def __str__(self) -> str:
        """Return it as it is written on the command line."""
        return f"{self.figure}{self.comparison}{self.limit:g}"

    def kept(self, value: float | None) -> bool:
        """Return whether a measured value keeps it; one that was not measured does not."""
        return value is not None and _COMPARE[self.comparison](value, self.limit)


@dataclass(frozen=True)
class Verdict:
    """What a rule says of a mode.

    Attributes:
        mode: the mode.
        rule: the rule.
        value: the measured figure; None if it was not measured.

    """

    mode: str
    rule: Rule
    value: float | None

    @property
    def passed(self) -> bool:
        """Whether the rule is kept."""
        return self.rule.kept(self.value)

    def __str__(self) -> str:
        """Return it as one sentence."""
        if self.value is None:
            why = "it needs labels or --reference dense, or a clock by which frames arrive"
            return (
                f"FAILED {self.mode}: {self.rule}, but {self.rule.figure} was not measured ({why})"
            )
        told = "passed" if self.passed else "FAILED"
        return f"{told} {self.mode}: {self.rule}, measured {self.value:.6g}"

    def entry(self) -> dict[str, Any]:
        """Return it as `results.json` and `sweep.json` hold it."""
        return {
            "mode": self.mode,
            "rule": str(self.rule),
            "figure": self.rule.figure,
            "value": self.value,
            "passed": self.passed,
            "text": str(self),
        }


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Return the rules of a comma list such as `miou_drop<=1.0,p95_ms<=33`.

    Raises:
        ConfigError: a rule is not NAME, comparison, number; or there is no such name.

    """
    rules = []
    for part in text.split(","):
        found = _RULE.fullmatch(part)
        limit = _number(found[3]) if found else None
        if found is None or limit is None:
            msg = (
                f"--require has {part.strip()!r}; write rules as NAME<=NUMBER, NAME>=NUMBER, "
                "NAME<NUMBER or NAME>NUMBER, parted by commas"
            )
            raise ConfigError(msg)
        if found[1] not in FIGURES:
            msg = f"--require names {found[1]!r}; known: {', '.join(FIGURES)}"
            raise ConfigError(msg)
        rules.append(Rule(found[1], found[2], limit))
    return tuple(rules)


def judge(rules: tuple[Rule, ...], results: Mapping[str, Any]) -> list[Verdict]:
    """Return what every rule says of every mode of a `results.json`.

    Mode `dense` beside others is what they are compared with, and not judged itself.
    """
    modes: Mapping[str, Mapping[str, Any]] = results["modes"]
    dense = results["reference"] or modes.get(DENSE)
    judged = [mode for mode in modes if mode != DENSE] or list(modes)
    return [
        Verdict(mode, rule, FIGURES[rule.figure](modes[mode], dense))
        for mode in judged
        for rule in rules
    ]


def why_broken(verdicts: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Return a sentence for every rule that nothing keeps, or that nothing keeps all of them.

    Args:
        verdicts: who was judged, and the verdict as `Verdict.entry` returns it.

    """
    by_rule: dict[str, list[tuple[str, Mapping[str, Any]]]] = {}
    for name, verdict in verdicts:
        by_rule.setdefault(verdict["rule"], []).append((name, verdict))
    told = []
    for rule, pairs in by_rule.items():
        if any(verdict["passed"] for _, verdict in pairs):
            continue
        known = [(v["value"], name) for name, v in pairs if v["value"] is not None]
        if known:
            value, name = max(known) if ">" in rule else min(known)
            told.append(f"Nothing keeps {rule}: the nearest is {name} with {value:.6g}.")
        else:
            told.append(f"Nothing keeps {rule}: it was not measured.")
    return told or ["Each rule is kept by something, but nothing keeps all of them."]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
