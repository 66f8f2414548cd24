"""Time what labelling costs a frame beside a bare pass of Segment Anything's image encoder.

    OMP_NUM_THREADS=1 python scripts/benchmarks/benchmark_labelling.py --dataset data/nuaa-10pct \\
        --teacher runs/nuaa/teacher --out results/benchmarks/labelling_nuaa.json

Labelling is what `scalpel-hf label` does with a row: it reads the frame, predicts it in one view, finds the candidates
and their evidence, and stores the confidence as PNG. The encoder is that of the teacher's base, on the same frame at
its input size, read and normalised before. The two take turns; times are of the CPU, in one thread.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from scalpel_hf.adapter.families import base_of
from scalpel_hf.cli.numbers import COUNT
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import load_split
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.pseudo_labels.labelling import predict_rows
from scalpel_hf.training.run_record import commit_and_machine
from scalpel_hf.utils.files import write_json

THRESHOLD = 0.5


def seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def measure(teacher: Teacher, rows: Any) -> np.ndarray:
    """CPU seconds `(frames, 2)` of labelling a row and of the encoder on its frame."""
    encoder = base_of(teacher.members[0].model)
    times = []
    for row in rows:
        batch = {key: [value] for key, value in row.items()}
        pixel_values = teacher.processor([read_frame(row["image"])], return_tensors="pt")["pixel_values"]
        label = seconds(partial(predict_rows, batch, teacher, THRESHOLD))
        times.append((label, seconds(partial(encoder.get_image_embeddings, pixel_values))))
    return np.array(times[1:])  # the first pass of each also sets up what the others find


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a folder made by `scalpel-hf prepare`")
    parser.add_argument("--teacher", required=True, help="folder of a teacher or committee")
    parser.add_argument("--frames", type=COUNT, default=40, help="unlabelled frames (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    teacher = Teacher.from_pretrained(args.teacher)
    rows = load_split(args.dataset, "train").filter(lambda source: source == "none", input_columns="label_source")
    rows = rows.select(range(min(len(rows), args.frames + 1)))
    with torch.no_grad():
        times = measure(teacher, undecoded(rows))
    ratios = times[:, 1] / times[:, 0]
    record = {
        "dataset": Path(args.dataset).name,
        "members": len(teacher.members),
        "frames": len(times),
        "label_ms": round(1e3 * median(times[:, 0]), 1),
        "encoder_ms": round(1e3 * median(times[:, 1]), 1),
        "times_the_encoders_frame_rate": round(median(ratios), 2),
        "times_the_encoders_frame_rate_10_90": [round(float(q), 2) for q in np.quantile(ratios, (0.1, 0.9))],
        **commit_and_machine(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    run_program(main)
