"""The `seg_node` command: one sub-command per verb, each a thin wrapper."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
import sys
from typing import TYPE_CHECKING

import seg_node
from seg_node.core.config import Config, options
from seg_node.core.types import ConfigError, SegNodeError
from seg_node.eval.arguments import add_replay_arguments
from seg_node.export.arguments import add_export_arguments, export_settings
from seg_node.train.arguments import (
    add_adjust_arguments,
    add_gate_arguments,
    add_label_arguments,
    add_policy_arguments,
    add_segment_arguments,
    add_slim_arguments,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from seg_node.core.config import Value
    from seg_node.train.command import SegmentJob
    from seg_node.train.gate_command import GateJob
    from seg_node.train.low_command import LowJob
    from seg_node.train.policy_command import PolicyJob
    from seg_node.train.slim_command import SlimJob

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells report it."""
REFERENCE = "dense"
"""Mode of evaluate and bench where none is named: what all others are compared with."""
ONE_MODEL = "name of a shipped model, or path of a manifest"
ONE_MODE = "how compute is chosen (default: adaptive)"
MODES = "how compute is chosen (default: {}); several are compared frame by frame: dense,MODE"


def evaluate(args: argparse.Namespace) -> int:
    """Score a model on labelled data."""
    from seg_node.data.datasets import open_source
    from seg_node.data.resizing import parse_size
    from seg_node.eval.distances import parse_encoding, Protocol, run_distances
    from seg_node.eval.evaluate import run_evaluate, Selection

    config, modes = _modes(args, REFERENCE)
    if args.encode is not None and args.distances is None:
        msg = "--encode belongs to --distances L; add it"
        raise ConfigError(msg)
    size = None if args.size is None else parse_size(args.size)
    if args.distances is not None:
        if size is not None:
            msg = "--size does not go together with --distances: encode frames of that size"
            raise ConfigError(msg)
        source = open_source(args.data, split=args.split, topic=args.topic)
        encoding = parse_encoding(args.encode, args.distances) if args.encode else None
        protocol = Protocol(args.distances, encoding)
        return run_distances(source, config, modes, protocol, args.json)
    return run_evaluate(
        args.data,
        config,
        modes=modes,
        split=args.split,
        topic=args.topic,
        mask_topic=args.mask_topic,
        selection=Selection(args.stride, args.limit, size),
        out=args.out,
        json_path=args.json,
        compare_with=args.compare,
    )


def replay(args: argparse.Namespace) -> int:
    """Segment recordings and say how accurate, fast and fresh the masks are."""
    from seg_node.eval.arguments import replay_axes, replay_fleet, replay_request
    from seg_node.eval.recordings import find_recordings

    recordings = find_recordings(args.data)
    request = replay_request(args, recordings, *_modes(args))
    if fleet := replay_fleet(args, recordings, request):
        from seg_node.eval.fleet import run_fleet

        return run_fleet(fleet)
    if axes := replay_axes(args, _setting):
        from seg_node.eval.sweep import run_sweep

        return run_sweep(request, axes)
    if request.clock == "live":
        from seg_node.demo.live import run_live

        return run_live(request)
    from seg_node.eval.replay_command import run_replay

    return run_replay(request)


def bench(args: argparse.Namespace) -> int:
    """Measure how long a step takes in several modes and models, on the same frames."""
    from seg_node.data.resizing import parse_size
    from seg_node.eval.bench import run_bench, Workload

    models = [name.strip() for name in (args.model or "").split(",")]
    args.model = models[0] or None
    config, modes = _modes(args, REFERENCE)
    workload = Workload(args.frames, None if args.size is None else parse_size(args.size))
    own = models if len(models) > 1 else ()
    return run_bench(
        config, modes, data=args.data, workload=workload, json_path=args.json, models=own
    )


def demo(args: argparse.Namespace) -> int:
    """Play a source through real ROS into the real node and show what comes back."""
    from seg_node.demo.run import run_demo, Wishes

    wishes = Wishes(
        source=args.source,
        out=args.out,
        seconds=args.seconds,
        rate_hz=args.rate,
        topic=args.topic,
        settings=_settings(args),
    )
    return run_demo(wishes)


def train_segment(args: argparse.Namespace) -> int:
    """Train a network on labelled data; --resume continues a run that was stopped."""
    from seg_node.train.arguments import LOW, low_request, segment_request
    from seg_node.train.command import SegmentJob
    from seg_node.train.low_command import LowJob

    if args.student == LOW:
        return _train(LowJob(low_request(args)))
    return _train(SegmentJob(segment_request(args)))


def train_policy(args: argparse.Namespace) -> int:
    """Train what chooses the blocks of mode segblocks, with its network or --frozen."""
    from seg_node.train.arguments import policy_request
    from seg_node.train.policy_command import PolicyJob

    return _train(PolicyJob(policy_request(args)))


def train_gate(args: argparse.Namespace) -> int:
    """Train the gates of mode stmg; the network stays as it is."""
    from seg_node.train.arguments import gate_request
    from seg_node.train.gate_command import GateJob

    return _train(GateJob(gate_request(args)))


def train_slim(args: argparse.Namespace) -> int:
    """Train a network that gets smaller, on data that are slimmed by their complexity."""
    from seg_node.train.arguments import slim_request
    from seg_node.train.slim_command import SlimJob

    return _train(SlimJob(slim_request(args)))


def train_adjust(args: argparse.Namespace) -> int:
    """Shift the logits of each class for the best mIoU on labelled data; nothing else learns."""
    from seg_node.eval.progress import progress
    from seg_node.train.adjust_command import adjust
    from seg_node.train.arguments import adjust_request

    request = adjust_request(args)
    with progress("looking at frames", 0) as tell:
        found = adjust(request, tell)
    for name, offset in found.offsets.items():
        print(f"  {name:<12} {offset:+.3f}")
    gain = found.gain
    print(f"mIoU {gain.before:.4f} -> {gain.after:.4f} on these frames")
    print(f"     {gain.held_before:.4f} -> {gain.held_after:.4f} on frames that were held out")
    if gain.held_after <= gain.held_before:
        print("on frames that were held out nothing is gained: better keep the model as it was")
    if found.branch_lost:
        print("the LOW branch blends results, which are others now: train it again")
    print(request.out / f"{found.manifest.name}.json")
    return 0


def _train(job: SegmentJob | PolicyJob | GateJob | LowJob | SlimJob) -> int:
    """Run a training under a bar; Ctrl-C leaves a checkpoint."""
    from seg_node.eval.progress import noted_interrupt, progress

    if sys.stderr.isatty():  # the bar tells it, and log.jsonl keeps it
        logging.getLogger("seg_node.train.journal").setLevel(logging.WARNING)
    steps = job.request.settings.steps
    shown = progress("training", steps, "steps", quiet=job.share.rank > 0)
    with noted_interrupt() as interrupt, shown as tell:

        def on_step(done: int) -> None:
            tell(done)
            if interrupt:
                raise KeyboardInterrupt

        for manifest in job.run(on_step):
            print(job.request.out / f"{manifest.name}.json")
    return 0


def label(args: argparse.Namespace) -> int:
    """Write pseudo-labels for a bag, video or folder: a folder ready to train on."""
    from seg_node.eval.progress import progress
    from seg_node.train.arguments import label_request
    from seg_node.train.label import label_data

    with progress("labelling", 0) as tell:
        report = label_data(label_request(args), tell)
    print(f"{report.frames} frames labelled, {report.kept} were there: folder:{args.out}")
    for reason, count in report.skipped.items():
        print(f"  skipped {count} x: {reason}")
    for name, share in report.shares.items():
        print(f"  {name:<12} {share:7.2%} of the pixels")
    return 0


def models(args: argparse.Namespace) -> int:
    """List the shipped models and check their hashes, or print the card of one."""
    from seg_node.nets.manifest import list_models, model_card, models_dir, weights_problem

    if args.card:
        _print_markdown(model_card(args.card))
        return 0
    damaged = 0
    rows = []
    for model in list_models():
        problem = weights_problem(model, models_dir())
        damaged += bool(problem)
        rows.append(
            {"name": model.name, "intact": not problem, "data": model.data, **model.scores}
        )
        scores = ", ".join(f"{k} {v:.4f}" for k, v in model.scores.items())
        state = f"DAMAGED: {problem}" if problem else "intact"
        print(f"{model.name}: {state}; {model.data}; {scores}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 1 if damaged else 0


def _print_markdown(text: str) -> None:
    """Print Markdown, laid out where it goes to a terminal and as it is elsewhere."""
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def export(args: argparse.Namespace) -> int:
    """Write a model's networks for other run times (ONNX, TensorRT), checked against torch."""
    from seg_node.export.packages import check_packages

    check_packages()
    from seg_node.data.resizing import parse_size
    from seg_node.export.command import run_export

    size = None if args.size is None else parse_size(args.size)
    print(run_export(export_settings(args, size)))
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Say what is here, what is wrong, and what to do about it."""
    from seg_node.ros.doctor import run_doctor

    return run_doctor(args.topic, json_path=args.json)


def run(args: argparse.Namespace) -> int:
    """Run the ROS 2 node; arguments after -- go to ROS."""
    from seg_node.ros.node import main as node_main

    return node_main([sys.argv[0], *args.ros_args])


def _modes(
    args: argparse.Namespace, default: str = Config().mode
) -> tuple[Config, tuple[str, ...]]:
    """Return the settings that the command line asks for, and the modes of its comma list."""
    from seg_node.eval.session import parse_modes

    values = _settings(args)
    modes = parse_modes(str(values.get("mode", default)))
    return Config().updated({**values, "mode": modes[0]}), modes


def _settings(args: argparse.Namespace) -> dict[str, Value]:
    """Return what --mode, --model, --device and every --set NAME=VALUE change."""
    values: dict[str, Value] = {
        name: getattr(args, name) for name in ("mode", "model", "device") if getattr(args, name)
    }
    values.update(_setting(pair, "--set") for pair in args.set)
    return values


def _setting(pair: str, option: str) -> tuple[str, Value]:
    """Read NAME=VALUE; `option` is where it was given, for errors."""
    known = {option.name: option.value for option in options(Config())}
    name, equals, text = pair.partition("=")
    if not equals or name not in known:
        msg = f"{option} {pair!r}: expected NAME=VALUE with NAME one of {', '.join(known)}"
        raise ConfigError(msg)
    return name, _parse(name, text, known[name])


def _parse(name: str, text: str, like: Value) -> Value:
    """Read a setting's text in the type of its default; a list is parted by commas."""
    if isinstance(like, tuple):
        return tuple(text.split(",")) if text else ()
    try:
        return type(like)(text)
    except ValueError as err:
        msg = f"{name} is {text!r}; expected a {type(like).__name__}"
        raise ConfigError(msg) from err


def _add_settings(
    parser: argparse.ArgumentParser,
    out: str | None = None,
    mode: str = ONE_MODE,
    model: str = ONE_MODEL,
) -> None:
    """Add the options that evaluate, replay, bench and demo share, with their explanations."""
    parser.add_argument("--mode", help=mode)
    parser.add_argument("--model", help=model)
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any parameter of the node, such as input.scale=0.5; may be repeated",
    )
    if out:
        parser.add_argument("--out", type=Path, default=Path(out), help=f"folder (default: {out})")


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    """Add a sub-command whose help is the first line of its function."""
    text = (function.__doc__ or "").partition("\n")[0]
    parser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(run=function)
    return parser


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that no other verb has."""
    parser.add_argument("data", help="named data with labels, such as camvid:DIR or street:1")
    parser.add_argument("--split", default="val", help="split of the data (default: val)")
    parser.add_argument("--topic", help="image topic of a bag (default: the obvious one)")
    parser.add_argument("--mask-topic", help="topic of a bag with the masks of these images")
    parser.add_argument("--stride", type=int, default=1, help="take every so many-th frame")
    parser.add_argument("--limit", type=int, help="stop after so many labelled frames")
    parser.add_argument(
        "--size",
        metavar="WxH",
        help="bring images and labels to this size, such as 960x720 (default: their own)",
    )
    parser.add_argument(
        "--distances",
        type=int,
        metavar="L",
        help="score every distance from the keyframe, one in L frames, instead",
    )
    parser.add_argument(
        "--encode",
        metavar="CODEC:KBPS@HZ",
        help="with --distances: encode the frames first, such as h264:3000@30",
    )
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    parser.add_argument("--out", type=Path, help="folder for results.json, page and worst frames")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD",
        help="results.json of an earlier run: tell what got better or worse since; needs --out",
    )


def _add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that no other verb has."""
    parser.add_argument(
        "--data", default="street:1", help="named data or path (default: street:1)"
    )
    parser.add_argument(
        "--size",
        metavar="WxH",
        help="bring images to this size (default: their own, 960x720 of a street)",
    )
    parser.add_argument("--frames", type=int, default=100, help="frames to measure (default: 100)")
    parser.add_argument("--json", type=Path, help="also write the results to this file")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    parser = argparse.ArgumentParser(prog="seg_node", description=seg_node.__doc__)
    parser.add_argument("--version", action="version", version=seg_node.__version__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = _verb(verbs, "demo", demo)
    verb.add_argument("--source", default="street:1", help="video, folder, bag or named data")
    verb.add_argument("--seconds", type=float, default=12.0, help="seconds of it to play")
    verb.add_argument("--rate", type=float, help="images per second (default: what keeps up)")
    verb.add_argument("--topic", help="image topic of a bag (default: the obvious one)")
    _add_settings(verb, "out/demo")

    verb = _verb(verbs, "run", run)
    verb.add_argument(
        "ros_args", nargs=argparse.REMAINDER, help="such as --ros-args -p mode:=dense"
    )

    verb = _verb(verbs, "replay", replay)
    add_replay_arguments(verb)
    _add_settings(verb, "out/replay", MODES.format(Config().mode))

    verb = _verb(verbs, "evaluate", evaluate)
    _add_evaluate_arguments(verb)
    _add_settings(verb, mode=MODES.format(REFERENCE))

    verb = _verb(verbs, "bench", bench)
    _add_bench_arguments(verb)
    several = f"{ONE_MODEL}; several, separated by commas, are measured side by side"
    _add_settings(verb, mode=MODES.format(REFERENCE), model=several)

    verb = verbs.add_parser("train", help="Train on labelled data.")
    tasks = verb.add_subparsers(required=True, metavar="TASK")
    add_segment_arguments(_verb(tasks, "segment", train_segment))
    add_policy_arguments(_verb(tasks, "policy", train_policy))
    add_gate_arguments(_verb(tasks, "gate", train_gate))
    add_slim_arguments(_verb(tasks, "slim", train_slim))
    add_adjust_arguments(_verb(tasks, "adjust", train_adjust))

    verb = _verb(verbs, "label", label)
    add_label_arguments(verb)

    verb = _verb(verbs, "models", models)
    verb.add_argument("--card", metavar="NAME", help="print the card of this model instead")
    verb.add_argument("--json", type=Path, help="also write the list to this file")

    add_export_arguments(_verb(verbs, "export", export))

    verb = _verb(verbs, "doctor", doctor)
    verb.add_argument("--topic", help="also look at this image topic")
    verb.add_argument("--json", type=Path, help="also write the findings to this file")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; errors of ours are one line on standard error and exit status 1."""
    args = build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return int(args.run(args))
    except SegNodeError as err:
        print(f"seg_node: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("seg_node: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
