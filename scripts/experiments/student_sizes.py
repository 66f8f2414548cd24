"""The sizes of students, each of all masks of NUAA-SIRST by the recipe that the claim's students have.

    python scripts/experiments/student_sizes.py --data data/nuaa --sizes nano base large --seeds 0 1 2 \\
        --work runs/sizes --out results/sizes/nuaa-sirst

`small` is the claim's student of all masks (results/claim/nuaa-sirst-0.1). Measured on the test split, threshold 0.5,
after the last step. Writes one JSON a size and seed, with its counts on every frame. Run again, it resumes.
"""

import argparse
from pathlib import Path

from reproduce import QUICK, run

from scalpel_hf.cli.numbers import SEED
from scalpel_hf.cli.program import run_program
from scalpel_hf.evaluation.comparison import count_record, frames_to_compare
from scalpel_hf.evaluation.run_files import has_result
from scalpel_hf.modeling.configuration_scalpel_student import SIZES
from scalpel_hf.predictors.load import load_trained
from scalpel_hf.training.run_record import METRICS_FILE, training_facts
from scalpel_hf.utils.files import write_json

RECIPE = "nuaa_sirst/transfer_10pct"
STEPS = ("--max_steps", 4000)  # the claim's


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared data set with all masks and a test split")
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES], default=[*SIZES], help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True, help="folder for the trained students")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--quick", action="store_true", help="a few steps each, to see that it works")
    args = parser.parse_args(argv)

    for seed in args.seeds:
        for size in args.sizes:
            result, student = args.out / f"{size}-{seed}.json", args.work / f"{size}-{seed}"
            if has_result(result, dataset=args.data.name):
                continue
            where = ("--dataset", args.data, "--pseudo_labels", "", "--output_dir", student, "--eval_split", "")
            if not (student / METRICS_FILE).exists():
                how = QUICK if args.quick else STEPS
                run("transfer", "--config", RECIPE, *where, "--size", size, "--seed", seed, *how)
            rows = frames_to_compare(str(args.data), "test", models=[student], labelled=None)
            record = count_record(load_trained(student).probabilities, rows)
            args.out.mkdir(parents=True, exist_ok=True)
            write_json(
                result, {"arm": size, "dataset": args.data.name, "seed": seed, **record, **training_facts(student)}
            )
            print(size, seed, record["metrics"], flush=True)


if __name__ == "__main__":
    run_program(main, resumes=True)
