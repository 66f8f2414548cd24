"""Label the frames that nobody has labelled, with a trained teacher.

Examples:

    scalpel-hf label --dataset data/nuaa-10pct --teacher runs/nuaa/teacher --out runs/nuaa/pseudo
    scalpel-hf label --num-processes 4 --dataset org/frames --teacher org/teacher --out runs/pseudo
    scalpel-hf label --dataset data/mine --teacher runs/a runs/b runs/c --out runs/pseudo

After an interruption, run the same command again to resume from the last finished shard. People's labels are never
changed. An object's score is the probability that it is a target, calibrated on the frames that people labelled;
objects with a score below 0.5 are ignored instead of labelled. With `--truth`, the data set with all masks, the quality
of the pseudo labels is measured; it has no effect on them. OUT/report/README.md is a report with pictures.

Several machines with a shared disk can divide the work: run with `--shard 1/3`, `--shard 2/3` and `--shard 3/3`, then
once more without.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState

from scalpel_hf.cli.launching import LAUNCH_HELP, launch_or_rest
from scalpel_hf.cli.numbers import BATCH_SIZE, COUNT, PROBABILITY, SCALE, SHARE, SIDE, between
from scalpel_hf.cli.program import run_program, verb_parser
from scalpel_hf.data import load_split
from scalpel_hf.data.contents import hash_rows
from scalpel_hf.data.label_sources import BY_PEOPLE, HUMAN
from scalpel_hf.data.stored import stream_stored
from scalpel_hf.evaluation.unseen import TrainedOn, seen_rows, trained_on
from scalpel_hf.hub.repo_names import shown_name
from scalpel_hf.hub.upload import push_dataset
from scalpel_hf.predictors.load import default_device
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.pseudo_labels import Calibration, LabellingJob, Rules
from scalpel_hf.pseudo_labels.against_truth import check_sizes, check_truth, compare_with_truth
from scalpel_hf.pseudo_labels.labelling import check_columns, key_of
from scalpel_hf.pseudo_labels.output import Labelled
from scalpel_hf.pseudo_labels.report import write_report
from scalpel_hf.pseudo_labels.thresholds import ThresholdChoice, choose_threshold
from scalpel_hf.training.guard import check_teacher
from scalpel_hf.utils.error_lines import one_line
from scalpel_hf.utils.files import check_can_be_made, write_json
from scalpel_hf.utils.reading import read_json


def main(argv: list[str] | None = None) -> None:
    args = parse(launch_or_rest("scalpel_hf.cli.label", argv))
    check_can_be_made(args.out, "--out")
    # A process may wait for another for as long as the labelling takes.
    state = PartialState(cpu=default_device() == "cpu", timeout=timedelta(days=30))
    say = print if state.is_main_process else lambda line: None
    datasets.disable_progress_bars()
    teacher = load_teacher(args, state.device, say)
    rows = stream_stored(args.dataset, args.split) if args.streaming else load_split(args.dataset, args.split)
    if isinstance(rows, datasets.Dataset):
        check_columns(rows)
    truth = load_truth(args, rows)
    choice = None
    if args.threshold == "auto":
        with state.main_process_first():  # the other processes then read its choice from the file
            choice = choose(rows, teacher, args)
    job = labelling_job(args, rows=rows, teacher=teacher, choice=choice, say=say)
    part, parts = args.shard
    job.predict((part - 1) * state.num_processes + state.process_index, parts * state.num_processes)
    state.wait_for_everyone()
    if state.is_main_process:
        if parts > 1:
            print(f"part {part} of {parts} is done; when all are, run the same command without --shard")
        else:
            finalize(args, job, choice=choice, truth=truth)
    state.destroy_process_group()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = verb_parser("label", __doc__, LAUNCH_HELP)
    add_data_options(parser)
    add_teacher_options(parser)
    add_rule_options(parser)
    add_work_options(parser)
    args = parser.parse_args(argv)
    if args.calibration and args.no_calibration:
        parser.error("use --calibration or --no-calibration, not both")
    if args.min_score is None:
        args.min_score = 0.0 if args.no_calibration else 0.5
    if args.calibration:
        args.calibration = Calibration.load(args.calibration)
    elif not args.no_calibration:
        args.calibration = "labelled"
    return args


def add_data_options(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", required=True, help="made by `scalpel-hf prepare`: a folder or a Hub repository")
    data.add_argument("--split", default="train", help="split to label (default: %(default)s)")
    data.add_argument("--streaming", action="store_true", help="stream the data set; the result is parquet files")
    data.add_argument("--out", required=True, type=Path, help="folder for the labelled data set")
    data.add_argument("--truth", help="the same data set with all masks, to evaluate the pseudo labels")
    data.add_argument("--push-to-hub", metavar="ORG/NAME", help="data set repository to push the result to")
    data.add_argument("--license", default="other", help="license of the frames, for the card (default: %(default)s)")


def add_teacher_options(parser: argparse.ArgumentParser) -> None:
    model = parser.add_argument_group("teacher")
    model.add_argument(
        "--teacher",
        required=True,
        nargs="+",
        help="output of `scalpel-hf distill`, a folder or a Hub repository; several form an ensemble",
    )
    model.add_argument("--revision", help="of the teacher's Hub repository")
    model.add_argument("--base-model", help="the teacher's base model, if not the one in its configuration")
    model.add_argument("--flips", action="store_true", help="average over the frame's mirror images (4 times slower)")
    model.add_argument("--scales", type=SCALE, nargs="+", default=[1.0], help="average over the frame at these scales")
    model.add_argument(
        "--tile-size", type=SIDE, help="side of a large frame's tiles (default: the teacher's input size)"
    )
    model.add_argument(
        "--feature-cache-dir", type=Path, help="folder of the frozen features that the teacher's training cached"
    )
    model.add_argument(
        "--feature-cache-gb",
        type=between(float, 0.0, 1e6),
        default=0.0,
        help="add features to it, up to this many GB, for other teachers on the same base",
    )
    model.add_argument(
        "--any-teacher", action="store_true", help="label even if a small network trained on the same labels is better"
    )


def add_rule_options(parser: argparse.ArgumentParser) -> None:
    rules = parser.add_argument_group("what becomes a label")
    rules.add_argument(
        "--threshold", type=threshold, default=0.5, help="probability of a target, or `auto`: chosen on labelled frames"
    )
    rules.add_argument("--calibration", metavar="FILE", help="calibration.json of another run, to compute scores")
    rules.add_argument("--no-calibration", action="store_true", help="use the teacher's mean probability as score")
    rules.add_argument(
        "--min-score", type=SHARE, help="lowest score of an object (default: 0.5; 0 with --no-calibration)"
    )
    rules.add_argument(
        "--min-area", type=COUNT, default=1, help="smallest area of an object in pixels (default: %(default)s)"
    )
    rules.add_argument("--max-area", type=COUNT, help="largest area of an object in pixels")
    rules.add_argument(
        "--min-agreement", type=SHARE, default=0.0, help="lowest agreement between flips, scales and teachers, 0 to 1"
    )
    rules.add_argument(
        "--min-empty", type=SHARE, default=0.8, help="probability from which a frame is labelled as empty"
    )


def add_work_options(parser: argparse.ArgumentParser) -> None:
    work = parser.add_argument_group("work")
    work.add_argument("--shard-size", type=COUNT, default=64, help="frames in a shard (default: %(default)s)")
    work.add_argument("--batch-size", type=BATCH_SIZE, default=8, help="frames in one call of the teacher")
    work.add_argument("--shard", type=part_of, default=(1, 1), metavar="I/N", help="label only part I of N")
    work.add_argument("--skip-broken", action="store_true", help="leave out and count frames that can't be labelled")
    work.add_argument(
        "--allow-none", action="store_true", help="if no frame gets a label, finish with a message instead of an error"
    )


def threshold(text: str) -> float | str:
    return text if text == "auto" else PROBABILITY(text)


def part_of(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"must be a part and the number of parts, such as 1/3, got {text!r}")
    return int(part), int(parts)


def load_teacher(args: argparse.Namespace, device: torch.device, say: Callable[[str], None]) -> Teacher:
    """The teacher on its device. Says how it compared with a small network, see [`check_teacher`]."""
    teacher = Teacher.from_pretrained(
        args.teacher,
        args.base_model,
        revision=args.revision,
        feature_cache_dir=args.feature_cache_dir,
        feature_cache_bytes=int(args.feature_cache_gb * 1e9),
        flips=args.flips,
        scales=args.scales,
        tile_size=args.tile_size,
    )
    for name in args.teacher:
        check_teacher(name, args.any_teacher, say)
    return teacher.to(device)


def choose(rows: Any, teacher: Teacher, args: argparse.Namespace) -> ThresholdChoice:
    """The threshold for these frames and this teacher: read from an interrupted run of the same, or chosen now."""
    if isinstance(rows, datasets.IterableDataset):
        raise ValueError("`--threshold auto` doesn't work with --streaming: give a number")
    human = rows.select([i for i, source in enumerate(rows["label_source"]) if source == HUMAN])
    key = key_of([hash_rows(human), teacher.fingerprint()])
    kept = args.out.with_name(args.out.name + ".partial") / f"threshold-{key}.json"  # goes when the run is finished
    if kept.exists():
        return ThresholdChoice.load(kept)
    choice = choose_threshold(human, teacher, args.batch_size)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, asdict(choice))
    return choice


def load_truth(args: argparse.Namespace, rows: Labelled) -> datasets.Dataset | None:
    """
    Load the data set of `--truth`; `None` without the flag.

    Raises `ValueError` where the pseudo labels can't be measured by it, before the labelling, which can take hours.
    """
    if not args.truth:
        return None
    truth = load_split(args.truth, args.split, "leave `--truth` out")
    if not isinstance(rows, datasets.Dataset):
        check_truth(truth)
        return truth
    to_label = [index for index, source in enumerate(rows["label_source"][:]) if source not in BY_PEOPLE]
    frames = rows.select(to_label)
    check_truth(truth, frames["name"][:])
    check_sizes(frames, truth)
    return truth


def labelling_job(
    args: argparse.Namespace,
    rows: Labelled,
    teacher: Teacher,
    choice: ThresholdChoice | None,
    say: Callable[[str], None],
) -> LabellingJob:
    """The job that the flags describe, with the threshold that was chosen, if one was."""
    rules = Rules(
        threshold=choice.threshold if choice else args.threshold,
        min_score=args.min_score,
        min_area=args.min_area,
        max_area=args.max_area,
        min_agreement=args.min_agreement,
        min_empty=args.min_empty,
    )
    return LabellingJob(
        rows,
        teacher,
        args.out,
        rules=rules,
        name=", ".join(map(shown_name, args.teacher)),
        revision=args.revision,
        calibration=args.calibration,
        shard_size=args.shard_size,
        batch_size=args.batch_size,
        skip_broken=args.skip_broken,
        allow_none=args.allow_none,
        report=say,
        split=args.split,
    )


def finalize(
    args: argparse.Namespace, job: LabellingJob, choice: ThresholdChoice | None, truth: datasets.Dataset | None
) -> None:
    recorded = all(TrainedOn.load(name) is not None for name in args.teacher)
    known = trained_on(args.teacher) if recorded or truth is not None else TrainedOn()
    skipped = set() if truth is None else {truth["name"][index] for index in seen_rows(truth, known)}

    def complete(folder: Path, labelled: Labelled) -> None:
        if recorded:
            known.save(folder)
        summary = read_json(folder / "summary.json")
        if truth is not None:
            summary["quality"] = compare_with_truth(labelled, truth, skipped)
        if choice is not None:
            summary["threshold"] = asdict(choice)
        write_json(folder / "summary.json", summary)
        try:
            write_report(folder, labelled, truth, quality=summary.get("quality"), choice=choice)
        except Exception as error:  # the labels are kept even if the report fails
            print(f"warning: there is no report ({one_line(error)}); the same command tries again", file=sys.stderr)

    job.finalize(complete)
    print((args.out / "summary.json").read_text(encoding="utf-8"))
    if (args.out / "report").exists():
        print(f"report: {args.out / 'report' / 'README.md'}")
    if args.push_to_hub:
        labelled = load_split(args.out, args.split)  # a stream's result, from its files
        print(push_dataset(labelled, args.push_to_hub, split=args.split, license=args.license, run=args.out))


if __name__ == "__main__":
    run_program(main, resumes=True)
