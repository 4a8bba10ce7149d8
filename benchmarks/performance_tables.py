"""Writes the tables of docs/performance.md from the committed outputs in benchmarks/results.

    python -m benchmarks.performance_tables            # after a benchmark was run again
    python -m benchmarks.performance_tables --check    # exit status 1 if the page is not of today

Every number of the page is in a table, and every table lies between two marks that name it; what
is between them is written here and by nobody else. What should be high (scores, savings,
speed-ups) is cut off, what should be low (times, losses) is rounded up: no number is better than
what was measured. The sentences between the tables are for people to keep true.
"""

from __future__ import annotations

import argparse
from decimal import Decimal, ROUND_CEILING, ROUND_FLOOR
import json
from pathlib import Path
import re
import sys
from typing import Any, TYPE_CHECKING

from seg_node.core.config import Config, options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->\n)", re.DOTALL)
ABSENT = "-"
NAMED = frozenset({"model", "device", "mode"})
"""Settings that have an option of their own."""
FRACTIONS = ("0.1", "0.2", "0.3", "0.5", "0.7", "1.0")


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; tell the difference")
    args = parser.parse_args()
    old = PAGE.read_text(encoding="utf-8")
    new = refreshed(old)
    if args.check:
        if old != new:
            sys.stderr.write(f"{PAGE.name} is not what its files say: run without --check\n")
        return int(old != new)
    PAGE.write_text(new, encoding="utf-8")
    return 0


def refreshed(page: str) -> str:
    """Return a page with all of its tables written anew.

    Raises:
        KeyError: it names a table that nobody writes.

    """
    return BLOCK.sub(lambda found: found[1] + TABLES[found[2]]() + found[4], page)


def cut(value: float | None, digits: int, factor: float = 1.0) -> str:
    """Return a number with so many digits after the point, cut off."""
    if value is None:
        return ABSENT
    step = Decimal(1).scaleb(-digits)
    # By way of its text, in which 0.82 * 100 is 82.0 and not a little less.
    exact = Decimal(str(value)) * Decimal(str(factor))
    return str(exact.quantize(step, rounding=ROUND_FLOOR))


def raised(value: float, digits: int, factor: float = 1.0) -> str:
    """Return a cost with so many digits after the point, rounded up: never less than it is."""
    exact = Decimal(str(value)) * Decimal(str(factor))
    return str(exact.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_CEILING))


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as percent, cut off."""
    return ABSENT if value is None else f"{cut(value, digits, 100)} %"


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def read(name: str) -> Any:
    """Return the content of a committed output."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def link(name: str) -> str:
    """Return a link from the page to a committed output."""
    return f"[output](../benchmarks/results/{name})"


def command_of(results: Mapping[str, Any]) -> str:
    """Return what to type today to run a bench or an evaluation again.

    Settings are named where they are not today's defaults, so that it stays right when those
    change.
    """
    defaults = {option.name: option.value for option in options(Config())}
    data = _placed(results["data"])
    parts = [f"seg_node {results['command']}"]
    if results["command"] == "bench":
        size = results["input"]
        frames = max(entry["frames"] for entry in results["modes"].values())
        parts += [f"--data {data} --size {size['width']}x{size['height']} --frames {frames}"]
    else:
        parts += [data]
    parts += [f"--model {results['model']['name']}", f"--mode {','.join(results['modes'])}"]
    for name, value in results["config"].items():
        now = defaults.get(name)
        if name not in NAMED and value != (list(now) if isinstance(now, tuple) else now):
            parts.append(f"--set {name}={value}")
    return " ".join(parts)


def _placed(data: str) -> str:
    """Return named data as somebody else has them: without our folders."""
    kind, _, path = data.partition(":")
    if kind == "street":
        return data
    return f"{kind}:{'DIR' if kind == 'camvid' else Path(path).name}"


def _below(results: Mapping[str, Any], name: str) -> str:
    """Return what a table was measured with, and how to do it again."""
    frames = max(entry["frames"] for entry in results["modes"].values())
    machine = results.get("machine")
    where = f"{results['device']}, {results['versions']['machine']}"
    if machine:
        where += f" ({machine['cpu']}, {machine['cores']} cores)"
    torch = results["versions"]["torch"]
    return f"\n{frames} frames, {where}, torch {torch}; `{command_of(results)}`, {link(name)}\n"


def bench_table(name: str) -> str:
    """Return times of every mode of a bench."""
    results = read(name)
    header = ("mode", "step p50", "p95", "p99", "p99 / p50", "speed-up", "its quartiles",
              "MACs saved", "same pixels as dense")  # fmt: skip
    rows = []
    for mode, entry in results["modes"].items():
        ms, frame = entry["ms"], entry["speedup_per_frame"]
        rows.append(
            (
                f"`{mode}`",
                *(f"{raised(ms[part], 1)} ms" for part in ("p50", "p95", "p99")),
                raised(ms["p99"] / ms["p50"], 2),
                cut(entry["speedup_vs_dense"], 2),
                f"{cut(frame['p25'], 2)} to {cut(frame['p75'], 2)}",
                percent(entry["gmac_saving"]),
                percent((entry["agreement"] or {}).get("pixel")),
            )
        )
    return markdown(header, rows) + _below(results, name)


def stage_table(name: str) -> str:
    """Return where the time of a step goes, by mode."""
    results = read(name)
    stages = list(next(iter(results["modes"].values()))["stage_ms"])
    rows = [
        (f"`{mode}`", *(raised(entry["stage_ms"][stage], 1) for stage in stages))
        for mode, entry in results["modes"].items()
    ]
    return markdown(("mean ms", *stages), rows) + f"\nFrom the same {link(name)}.\n"


def score_table(*names: str) -> str:
    """Return accuracy beside cost of evaluations, one after the other."""
    header = ("model", "mode", "mIoU", "MACs saved", "step p50", "p99", "speed-up")
    rows = []
    below = ""
    for name in names:
        results = read(name)
        below += _below(results, name)
        for mode, entry in results["modes"].items():
            rows.append(
                (
                    f"`{results['model']['name']}`",
                    f"`{mode}`",
                    cut(entry["miou"], 3),
                    percent(entry["gmac_saving"]),
                    f"{raised(entry['ms']['p50'], 1)} ms",
                    f"{raised(entry['ms']['p99'], 1)} ms",
                    cut(entry["speedup_vs_dense"], 2),
                )
            )
    return markdown(header, rows) + below


def layer_table() -> str:
    """Return the time of block-sparse layers over that of the dense ones."""
    name = "sparse_layer.json"
    results = read(name)
    rows = [
        (
            f"{layer['channels']} x {layer['height']} x {layer['width']}",
            str(layer["block_side"]),
            layer["precision"],
            f"{raised(layer['dense_ms']['median'], 1)} ms",
            *(raised(layer["fractions"][f]["ratio"]["median"], 2) for f in FRACTIONS),
        )
        for layer in results["layers"]
    ]
    header = ("layer", "block", "numbers", "dense", *(f"{float(f):.0%}" for f in FRACTIONS))
    below = f"\n{results['device']}, {results['threads']} threads, torch {results['torch']}; "
    below += f"`python benchmarks/sparse_layer.py`, {link(name)}\n"
    return markdown(header, rows) + below


def budget_table() -> str:
    """Return how well the latency budget is kept."""
    name = "latency_budget.json"
    results = read(name)
    rows = [
        (
            f"{cut(row['budget_ms'], 1)} ms",
            raised(row["mean_of_budget"], 3),
            f"{raised(row['above_1.25'], 1, 100)} %",
            f"{raised(row['p50_ms'], 1)} ms",
            f"{raised(row['p99_ms'], 1)} ms",
        )
        for row in results["budgets"]
    ]
    below = (
        f"\n{results['size']}, `{results['model']}`, dense takes {raised(results['dense_ms'], 1)} "
    )
    below += f"ms; {results['machine']}; `{results['command']}`, {link(name)}\n"
    header = ("budget", "mean, of the budget", "frames above 1.25 x", "p50", "p99")
    return markdown(header, rows) + below


def host_table() -> str:
    """Return what the loops that Numba compiles are worth."""
    name = "host_loops.json"
    results = read(name)
    rows = []
    for case in results["cases"]:
        by_way = {(row["mode"], row["loops"]): row for row in case["ways"]}
        for mode in dict.fromkeys(mode for mode, _ in by_way):
            without, within = by_way[mode, False], by_way[mode, True]
            rows.append((
                f"`{case['model']}`, {case['width']}x{case['height']}",
                f"`{mode}`",
                f"{raised(without['mean_ms'], 1)} ms",
                f"{raised(within['mean_ms'], 1)} ms",
                cut(within["times_as_fast_as_without"], 2),
                cut(without["times_as_fast_as_dense"], 2),
                cut(within["times_as_fast_as_dense"], 2),
            ))  # fmt: skip
    header = ("network and picture", "mode", "without", "with Numba", "times as fast",
              "against `dense`, without", "with")  # fmt: skip
    versions, machine = results["versions"], results["machine"]
    below = (
        f"\nMeans of {results['frames']} frames, cpu float32, {results['threads']} threads, "
        f"{versions['machine']} ({machine['cpu']}, {machine['cores']} cores), torch "
        f"{versions['torch']}; `python benchmarks/host_loops.py {results['data']}`, {link(name)}\n"
    )
    return markdown(header, rows) + below


def aim_table() -> str:
    """Return what mode adaptive was to reach, and what it reaches."""
    large_name = "bench_adaptive_960x720_swiftnet18.json"
    speeds = [
        row
        for name in (large_name, "bench_modes_swiftnet18.json")
        for row in _speeds(read(name)["modes"]["adaptive"], link(name))
    ]
    scores = [
        row
        for name in ("adaptive_parts.json", "adaptive_parts_swiftnet18.json")
        for row in _losses(read(name), link(name))
    ]
    rows = (*speeds, *scores)
    return markdown(("mode `adaptive`", "aim", "reached", "file"), rows)


def _speeds(adaptive: dict[str, Any], file: str) -> list[tuple[str, ...]]:
    """Return how fast a bench found mode adaptive to be, and how even."""
    at, ms = f"960x720, {percent(adaptive['gmac_saving'])} of the MACs saved", adaptive["ms"]
    return [
        (f"times as fast as dense, whole step, two CPU threads, {at}", "4",
         cut(adaptive["speedup_vs_dense"], 2), file),
        ("p99 of a step over its p50 there", "1.3", raised(ms["p99"] / ms["p50"], 2), file),
    ]  # fmt: skip


def _losses(parts: dict[str, Any], file: str) -> list[tuple[str, ...]]:
    """Return what mode adaptive saves and loses on the labelled clip, over several starts."""
    adaptive = parts["scores"]["adaptive"]
    lost = parts["scores"]["dense"]["miou"] - adaptive["miou"]
    return [
        (f"MACs saved on the labelled clip, `{parts['model']}`, 480x360", "90 %",
         percent(adaptive["saved"]), file),
        ("points of mIoU lost there", "0.5", raised(lost, 2, 100), file),
    ]  # fmt: skip


def around_table() -> str:
    """Return what is around a step: the node, its parameters, memory of a long replay."""
    overhead, live = read("node_overhead.json"), read("live_parameters.json")
    memory, still = read("replay_memory.json"), read("still_camera.json")
    stillest = max(row["mean_of_dense"] for row in still["rows"])
    noise, pictures = (len({row[key] for row in still["rows"]}) for key in ("noise", "data"))
    assert len(still["rows"]) == noise * pictures
    rows = (
        (
            f"{overhead['what']}, {overhead['image']}",
            f"{raised(overhead['overhead_ms_per_frame'], 1)} ms",
            f"{cut(overhead['goal_ms'], 1)} ms",
            link("node_overhead.json"),
        ),
        (
            f"{live['what']}, 99 of 100",
            f"{raised(live['answer_ms']['p99'], 1)} ms",
            f"{cut(live['goal_ms'], 0)} ms",
            link("live_parameters.json"),
        ),
        (
            f"memory of a replay of {memory['frames']} frames: growth from frame 100 on",
            f"{raised(memory['growth_mb'], 1)} MB",
            "200 MB",
            link("replay_memory.json"),
        ),
        (
            (
                f"MACs of dense before a camera that stands still: the most of {pictures} "
                f"pictures and noise up to {max(row['noise'] for row in still['rows']):g} levels"
            ),
            f"{raised(stillest, 1, 100)} %",
            "5 %",
            link("still_camera.json"),
        ),
    )
    return markdown(("what", "measured", "aim", "file"), rows)


TABLES: dict[str, Callable[[], str]] = {
    "aims": aim_table,
    "large": lambda: bench_table("bench_adaptive_960x720_swiftnet18.json"),
    "large-stages": lambda: stage_table("bench_adaptive_960x720_swiftnet18.json"),
    "arseg": lambda: bench_table("bench_modes_swiftnet18.json"),
    "arseg-stages": lambda: stage_table("bench_modes_swiftnet18.json"),
    "half": lambda: bench_table("bench_modes_swiftnet18-half.json"),
    "half-stages": lambda: stage_table("bench_modes_swiftnet18-half.json"),
    "stmg": lambda: bench_table("bench_stmg_swiftnet18-half.json"),
    "stmg-large": lambda: bench_table("bench_stmg_swiftnet18.json"),
    "scores": lambda: score_table(
        "evaluate_camvid_val_adaptive_swiftnet18-half.json",
        "evaluate_camvid_val_adaptive_swiftnet18.json",
    ),
    "layers": layer_table,
    "budget": budget_table,
    "around": around_table,
    "host-loops": host_table,
}
"""What writes each table, by the name in its mark."""

if __name__ == "__main__":
    sys.exit(main())
