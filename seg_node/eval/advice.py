"""Says which mode and budget to choose, and why, from what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TYPE_CHECKING

from seg_node.eval.intervals import Difference, difference, MIOU
from seg_node.eval.require import ACCURACY, VERDICTS, why_broken
from seg_node.eval.results import DENSE
from seg_node.eval.tables import three_digits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from seg_node.eval.frames import ModeFrames

TOLERANCE = 0.01
"""Loss of the score, 0..1, that is taken for none: one point."""
FEW_FRAMES = 100
"""With fewer scored frames the page warns."""


@dataclass(frozen=True)
class Choice:
    """One mode with its settings, and what it came to.

    Attributes:
        mode: how compute is chosen.
        settings: what a sweep changed for it.
        score: mIoU, or agreement with dense where there are no labels, 0..1; None with neither.
        p50_ms: median time of a step.
        p95_ms: 95 of 100 steps take at most this; None if it was not timed.
        gmac: compute of a frame, mean.
        age_ms: in 95 of 100 frames no block is older.
        pareto: whether a sweep found nothing that is better in both score and cost.
        entry: all that was measured, as in `results.json`.
        verdicts: what every rule says of it, see `Verdict.entry`; none where none was asked for.
        page: address of a page of its own, from that of the run; empty where there is none.

    """

    mode: str
    settings: Mapping[str, Any]
    score: float | None
    p50_ms: float | None
    p95_ms: float | None
    gmac: float | None
    age_ms: float | None
    pareto: bool = False
    entry: Mapping[str, Any] = field(default_factory=dict, repr=False)
    verdicts: Sequence[Mapping[str, Any]] = ()
    page: str = ""

    @property
    def keeps(self) -> bool:
        """Whether it was judged and keeps all rules."""
        return bool(self.verdicts) and all(verdict["passed"] for verdict in self.verdicts)

    @property
    def name(self) -> str:
        """What to type, for people: `adaptive with budget.latency_ms=20`."""
        pairs = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.mode} with {pairs}" if pairs else self.mode


@dataclass(frozen=True)
class Advice:
    """What a person should know first.

    Attributes:
        headline: one sentence: what to choose.
        reasons: sentences that say why, and what to be careful about.
        ladder: the best choice for every time limit, fastest first.
        score_name: what `Choice.score` is.
        settled: whether there is something to choose.

    """

    headline: str
    reasons: tuple[str, ...]
    ladder: tuple[Choice, ...]
    score_name: str
    settled: bool = True


@dataclass(frozen=True)
class SweepPoint:
    """What a sweep found with one set of settings.

    Attributes:
        settings: those that the sweep changed.
        modes: entries of `results.json` by mode.
        pareto: modes of this point that no other point beats.
        verdicts: what the rules say, as in the rows of `sweep.json`, of all modes.
        page: address of the point's own page, from that of the sweep; empty where there is none.

    """

    settings: Mapping[str, Any]
    modes: Mapping[str, dict[str, Any]]
    pareto: frozenset[str]
    verdicts: Sequence[Mapping[str, Any]] = ()
    page: str = ""


def find_choices(results: dict[str, Any], points: Sequence[SweepPoint]) -> list[Choice]:
    """Return everything that was tried: the modes of the run, then the points of a sweep.

    A reference that ran beside is a choice without a time: it is there to be compared with.

    Args:
        results: content of `results.json`.
        points: of a sweep; none where there was none.

    """
    run = SweepPoint({}, results["modes"], frozenset(), results.get(VERDICTS, ()))
    tried = [(point, mode) for point in (run, *points) for mode in point.modes]
    beside = results.get("reference")
    if beside and all(mode != DENSE for _, mode in tried):
        untimed = {**beside, "ms": None, "agreement": None}
        tried.append((SweepPoint({}, {DENSE: untimed}, frozenset()), DENSE))
    labelled = any(point.modes[mode]["miou"] is not None for point, mode in tried)
    return [_choice(point, mode, labelled=labelled) for point, mode in tried]


def _score(mode: str, entry: dict[str, Any], *, labelled: bool) -> float | None:
    if labelled:
        score: float | None = entry["miou"]
        return score
    if entry["agreement"] is not None:
        agreement: float | None = entry["agreement"]["pixel"]
        return agreement
    return 1.0 if mode == DENSE else None


def _choice(point: SweepPoint, mode: str, *, labelled: bool) -> Choice:
    entry = point.modes[mode]
    ms, age = entry["ms"] or {}, entry["age_ms"] or {}
    return Choice(
        mode=mode,
        settings=point.settings,
        score=_score(mode, entry, labelled=labelled),
        p50_ms=ms.get("p50"),
        p95_ms=ms.get("p95"),
        gmac=entry["gmac_per_frame"],
        age_ms=age.get("p95"),
        pareto=mode in point.pareto,
        entry=entry,
        verdicts=[verdict for verdict in point.verdicts if verdict["mode"] == mode],
        page=point.page,
    )


def advise(choices: Sequence[Choice], frames: Mapping[str, ModeFrames]) -> Advice:
    """Choose the fastest of what loses at most a point against dense, and say why.

    Without mode `dense` the most accurate choice takes its place. Where rules were given, only
    what keeps all of them is chosen: the fastest if a rule says what may be lost; else, if all of
    it loses more than a point, the most accurate of what is faster.

    Args:
        choices: everything that was tried, see `find_choices`.
        frames: the table of frames of the run, by mode.

    """
    labelled = any(choice.entry["miou"] is not None for choice in choices)
    score_name = "mIoU" if labelled else "agreement with dense"
    ladder = _ladder(choices)
    reference = _reference([c for c in choices if c.score is not None])
    usable = [c for c in choices if c.score is not None and c.p95_ms is not None]
    if reference is None or not usable:
        return Advice(_unknown(choices), (), ladder, score_name, settled=False)
    ruled = any(choice.verdicts for choice in choices)
    allowed = [c for c in usable if c.keeps] if ruled else usable
    if not allowed:
        headline = "Nothing that was tried keeps all rules."
        without = advise([replace(choice, verdicts=()) for choice in choices], frames)
        otherwise = f"Without them: {without.headline[0].lower()}{without.headline[1:]}"
        broken = why_broken((c.name, verdict) for c in choices for verdict in c.verdicts)
        reasons = (*broken, otherwise, *without.reasons)
        return Advice(headline, reasons, ladder, score_name, settled=False)
    best = _best(allowed, reference, ruled=ruled)
    if best is reference and ruled and not best.keeps:
        headline = f"Stay with {reference.name}: nothing that keeps all rules is faster."
        reasons = ()
    elif best is reference:
        headline, reasons = _stay(reference, usable)
    else:
        headline = _choose(best, reference, labelled=labelled)
        reasons = _reasons(best, reference, frames, labelled=labelled)
    if best.keeps:
        reasons = (f"It keeps all rules, as {_count_of(allowed, choices)} do.", *reasons)
    return Advice(headline, (*reasons, *_cautions(best, reference)), ladder, score_name)


def _best(allowed: Sequence[Choice], reference: Choice, *, ruled: bool) -> Choice:
    """Return what to choose; the reference where nothing that is allowed is better."""
    if ruled and reference.p95_ms is not None and not reference.keeps:
        # Nobody judges what the others are compared with, but it limits what is worth a loss.
        allowed = [c for c in allowed if _time_of(c) < _time_of(reference)]
    told = any(verdict["figure"] in ACCURACY for c in allowed for verdict in c.verdicts)
    least = 0.0 if told else _score_of(reference) - TOLERANCE
    fine = [c for c in allowed if _score_of(c) >= least]
    otherwise = max(allowed, key=_score_of, default=reference) if ruled else reference
    return min(fine, key=_time_of, default=otherwise)


def _count_of(allowed: Sequence[Choice], choices: Sequence[Choice]) -> str:
    return f"{len(allowed)} of the {sum(bool(c.verdicts) for c in choices)} that were judged"


def _score_of(choice: Choice) -> float:
    assert choice.score is not None
    return choice.score


def _time_of(choice: Choice) -> float:
    assert choice.p95_ms is not None
    return choice.p95_ms


def _reference(choices: Sequence[Choice]) -> Choice | None:
    """Return what the others are measured by: dense as configured, else the most accurate."""
    dense = next((c for c in choices if c.mode == DENSE), None)
    return dense or max(choices, key=_score_of, default=None)


def _ladder(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """Return the choices that nothing faster beats in score, fastest first."""
    known = [c for c in choices if c.score is not None and c.p95_ms is not None]
    steps: list[Choice] = []
    for choice in sorted(known, key=lambda c: (_time_of(c), -_score_of(c))):
        if not steps or _score_of(choice) > _score_of(steps[-1]):
            steps.append(choice)
    return tuple(steps)


def _unknown(choices: Sequence[Choice]) -> str:
    """Return why nothing can be advised."""
    if not any(choice.p95_ms is not None for choice in choices):
        return "No step was timed, so there is nothing to choose by."
    modes = ",".join(dict.fromkeys((DENSE, *(choice.mode for choice in choices))))
    return (
        "These data have no labels and mode dense did not run, so this page tells times but not "
        f"what is right: run it again with --mode {modes}."
    )


def _stay(reference: Choice, usable: Sequence[Choice]) -> tuple[str, tuple[str, ...]]:
    """Return headline and reasons where nothing is fine and faster."""
    others = [c for c in usable if c is not reference]
    if reference.p95_ms is None:
        nearest = max(others, key=_score_of)
        lost = _points(_score_of(reference) - _score_of(nearest))
        return (
            f"Nothing that was tried comes within a point of {reference.name}: the nearest is "
            f"{nearest.name}, {lost} points lower; {_limit(nearest)}."
        ), ()
    if not others:
        headline = (
            f"Only {reference.name} was tried: {_limit(reference)}. Run several modes, such as "
            "--mode dense,warp,adaptive, to learn what can be saved."
        )
        return headline, ()
    faster = [c for c in others if _time_of(c) < _time_of(reference)]
    if not faster:
        return f"Stay with {reference.name}: nothing else that was tried is faster.", ()
    nearest = max(faster, key=_score_of)
    lost = _points(_score_of(reference) - _score_of(nearest))
    headline = f"Stay with {reference.name}: all that is faster loses more than one point."
    why = (
        f"The nearest one is {nearest.name}, {lost} points lower: {_limit(nearest)} instead of "
        f"{three_digits(_time_of(reference))} ms."
    )
    return headline, (why,)


def _choose(best: Choice, reference: Choice, *, labelled: bool) -> str:
    lost = _score_of(reference) - _score_of(best)
    pair = f"{_score_of(best):.3f} against {_score_of(reference):.3f}"
    if not labelled:
        judged = f"{_score_of(best):.1%} of the pixels get the same class as in {reference.name}"
    elif lost <= 0:
        judged = f"its mIoU is no lower than that of {reference.name} ({pair})"
    else:
        judged = f"its mIoU is {_points(lost)} points lower than that of {reference.name} ({pair})"
    instead = (
        "" if reference.p95_ms is None else f" instead of {three_digits(reference.p95_ms)} ms"
    )
    return f"Choose {best.name}: {_limit(best)}{instead}, and {judged}."


def _reasons(
    best: Choice, reference: Choice, frames: Mapping[str, ModeFrames], *, labelled: bool
) -> tuple[str, ...]:
    reasons = []
    if best.gmac and reference.gmac:
        reasons.append(
            f"It computes {best.gmac / reference.gmac:.0%} of what {reference.name} does "
            f"({three_digits(best.gmac)} of {three_digits(reference.gmac)} GMAC a frame)."
        )
    if best.age_ms is not None and best.age_ms > 0:
        reasons.append(f"In 95 of 100 frames nothing shown is older than {best.age_ms:.0f} ms.")
    both = {best.mode, reference.mode} <= set(frames) and not (best.settings or reference.settings)
    if labelled and both:
        found = difference(MIOU, frames[reference.mode], frames[best.mode])
        reasons += [_interval(found)] if found else []
    return tuple(reasons)


def _interval(found: Difference) -> str:
    low, high = 100 * found.low, 100 * found.high
    judged = "which may be chance" if found.low <= 0 <= found.high else "which is no chance"
    return (
        f"With other frames like these the difference in mIoU would lie between {low:+.1f} and "
        f"{high:+.1f} points 95 times of 100, {judged}."
    )


def _cautions(best: Choice, reference: Choice) -> tuple[str, ...]:
    cautions = []
    if best.entry["miou"] is None:
        cautions.append(
            "There are no labels: a pixel that differs from dense may be the right one."
        )
    count = best.entry["labelled_frames"] or best.entry["frames"]
    if count < FEW_FRAMES:
        cautions.append(f"Only {count} frames were scored: look at more before you rely on it.")
    dropped = best.entry["dropped"]
    if dropped:
        total = dropped + best.entry["frames"]
        cautions.append(f"It dropped {dropped} of {total} frames because they came too fast.")
    if reference.mode != DENSE:
        cautions.append(
            "Mode dense did not run: add it to --mode to learn what the best of the others loses."
        )
    return tuple(cautions)


def _limit(choice: Choice) -> str:
    return f"95 of 100 frames take at most {three_digits(_time_of(choice))} ms"


def _points(score: float) -> str:
    return f"{100 * score:.1f}"
