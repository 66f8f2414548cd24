"""Real recordings, from boxes on a twentieth of the frames to a student: what do pseudo labels add, and what tracks?

    python scripts/experiments/ir_clips.py --root data/ir-clips --seeds 0 1 2 --work runs/clips --out results/clips

Every fifth frame of the 16 training clips is taken, and a twentieth of these have their boxes. `scalpel-hf run` makes a
teacher, pseudo labels and detectors of them; `scalpel-hf transfer` students that segment, and students of all boxes to
compare with. Each is measured on every fifth frame of the 8 test clips, threshold 0.5, by boxes: a target is found
where a detection's centre lies in its box. The student that `run` exports is then run on the whole test clips by
`scalpel-hf predict`, with targets of fewer than `--min-frames` frames left out and not. Writes one JSON a model, with
its counts on every clip. Run again after a kill, it resumes.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from reproduce import run

from scalpel_hf.cli.numbers import COUNT, SEED, between
from scalpel_hf.cli.program import run_program
from scalpel_hf.cli.run_data import ALONE, BOTH, students_of
from scalpel_hf.data import load_split
from scalpel_hf.evaluation.box_metrics import (
    COUNTS,
    as_corners,
    by_recording,
    count_boxes,
    count_found,
    detect_all,
    detector_of,
    metrics_by_boxes,
)
from scalpel_hf.evaluation.detection_metrics import DetectionMetrics
from scalpel_hf.predictors.load import default_device, load_predictor
from scalpel_hf.training.run_record import METRICS_FILE, training_facts
from scalpel_hf.utils.files import write_json, write_text
from scalpel_hf.utils.reading import read_json

EVERY = 5
SHARE = 0.05
TASKS = ("segmentation", "detection")
LABELS = ("few-boxes", "pseudo-labels", "all-boxes")


def write_inputs(args: argparse.Namespace, clips: dict[str, Any]) -> None:
    """What a person would have: lists of recordings, and a file of boxes by frame."""
    args.work.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        names = sorted(name for name, clip in clips.items() if clip["split"] == split)[: args.clips]
        listed = "".join(f"{(args.root / 'clips' / name).resolve()}.mp4\n" for name in names)
        write_text(args.work / f"{split}.txt", listed)
        boxes = {
            f"{name}_{number:06d}": clips[name]["boxes"][number]
            for name in names
            for number in range(0, len(clips[name]["boxes"]), EVERY)
        }
        write_json(args.work / f"{split}.json", boxes)
        for seed in args.seeds if split == "train" else ():
            drawn = np.random.default_rng(seed).permutation([*boxes])[: max(12, round(SHARE * len(boxes)))]
            write_json(args.work / f"few-{seed}.json", {name: boxes[name] for name in sorted(drawn)})


def train(args: argparse.Namespace, seed: int) -> dict[str, Path]:
    """The models by arm."""
    work, steps = args.work, ("--max-steps", args.max_steps) if args.max_steps else ()
    job, everything = work / f"run-{seed}", work / "all-boxes"
    train_on = (work / "train.txt", "--every", EVERY, "--test", work / "test.txt", "--test-labels", work / "test.json")
    run("run", *train_on, "--labels", work / f"few-{seed}.json", "--out", job, "--seed", seed, *steps)
    if not everything.exists():
        taken = ("--root", work / "train.txt", "--every", EVERY, "--labels", work / "train.json")
        run("prepare", "--layout", "folder", *taken, "--out", everything)
    models = {"teacher": job / "teacher"}
    taught = {what: job / name for name, what in students_of(job).items()}
    of_run = {"few-boxes": taught[ALONE], "pseudo-labels": taught.get(BOTH, taught[ALONE])}
    labels = {"few-boxes": (job / "data", ""), "pseudo-labels": (job / "data", job / "pseudo")}
    labels["all-boxes"] = (everything, "")
    for task in TASKS:
        for arm, (data, pseudo) in labels.items():
            name = f"{task}-{arm}"
            models[name] = of_run[arm] if task == "detection" and arm in of_run else work / f"{name}-{seed}"
            if not (models[name] / METRICS_FILE).exists():
                where = ("--dataset", data, "--pseudo-labels", pseudo, "--output-dir", models[name])
                how = ("--config", "presets/laptop/transfer", "--task", task, "--seed", seed, "--eval-split", "")
                run("transfer", *how, *where, *steps)
    return models


def measure(model: Path, test: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Counts on each clip, and metrics."""
    detect = detector_of(load_predictor(model, device=default_device()))
    frames, precision = detect_all(detect, test), DetectionMetrics()
    for frame in frames:
        precision.update(*frame)
    counts = count_boxes(frames)
    return by_recording(counts, test), metrics_by_boxes(counts, 0.5) | {"ap50": precision.compute()["ap50"]}


def predict(args: argparse.Namespace, student: Path, clips: dict[str, Any], min_frames: int) -> np.ndarray:
    """Counts on each whole test clip, of what `scalpel-hf predict` finds."""
    counts = []
    for recording in (args.work / "test.txt").read_text(encoding="utf-8").splitlines():
        found = args.work / "found.jsonl"
        run("predict", student, recording, "--out", found, "--overwrite", "--min-frames", min_frames, "--threads", 1)
        lines = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
        truths = clips[Path(recording).stem]["boxes"]
        if len(lines) != len(truths):
            raise ValueError(f"{recording}: {len(lines)} frames have a prediction, and {len(truths)} have labels")
        each = [
            count_found(np.array(line["boxes"], float), as_corners(truth))
            for line, truth in zip(lines, truths, strict=True)
        ]
        counts.append(np.sum(each, axis=0))
    return np.array(counts)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with labels.json and clips/")
    parser.add_argument("--seeds", type=SEED, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True, help="folder for data, models and labels")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument(
        "--min-frames", type=between(int, 2, 1000), default=5, help="of a tracked target (default: %(default)s)"
    )
    parser.add_argument("--max-steps", type=COUNT, help="of each training (default: the preset's)")
    parser.add_argument("--clips", type=COUNT, help="so many of each split alone (default: all)")
    args = parser.parse_args(argv)

    clips = read_json(args.root / "labels.json")
    write_inputs(args, clips)
    for seed in args.seeds:
        models = train(args, seed)
        test = load_split(str(args.work / f"run-{seed}" / "data"), "test")
        for arm, model in models.items():
            write(args, arm, seed, model, *measure(model, test))
        student = args.work / f"run-{seed}" / "student"
        tracked = {"all-frames": 1, f"tracked-{args.min_frames}": args.min_frames}
        for arm, min_frames in tracked.items():
            counts = predict(args, student, clips=clips, min_frames=min_frames)
            write(args, arm, seed=seed, model=student, counts=counts, metrics=metrics_by_boxes(counts, 0.5))


def write(args: argparse.Namespace, arm: str, seed: int, model: Path, counts: np.ndarray, metrics: Any) -> None:
    counted = {"columns": [*COUNTS], "recordings": counts.tolist()}
    file = args.out / f"{arm}-{seed}.json"
    setting = {"arm": arm, "dataset": "ir-clips", "seed": seed}
    write_json(file, {**setting, "metrics": metrics, "counts": counted, **training_facts(model)})
    print(f"{arm}, seed {seed}: {metrics}", flush=True)


if __name__ == "__main__":
    run_program(main, resumes=True)
