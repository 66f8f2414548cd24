"""The whole job on synthetic frames, with no data and no network.

Examples:

    scalpel-hf demo --out demo
    scalpel-hf demo --out quick --frames 40 --scale-steps 0.05

Makes frames and a small Segment Anything model of random weights, trains a teacher on 10 % of the labels, has it label
the rest, trains three students (10 % alone, 10 % and pseudo labels, 100 %), and ends with a table and OUT/report.html.
The commands are the ones for real data and are printed as they run. Run again after Ctrl-C or a kill to resume.
"""

import hashlib
import shlex
import time
from pathlib import Path

from scalpel_hf.cli.numbers import between
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.cli.small_sam import save_small_sam
from scalpel_hf.cli.stages import Stage, claim, run_stages
from scalpel_hf.utils.files import read_yaml
from scalpel_hf.utils.recipe_files import recipe_file

RECIPES = {name: f"demo/{name}" for name in ("distill", "transfer")}
MARKER = ".scalpel-demo"  # in a demo's folder: the settings it was made with


def digest(recipe: str) -> str:
    return hashlib.sha256(recipe_file(recipe).read_bytes()).hexdigest()[:12]


def stages(out: Path, frames: int, scale_steps: float) -> list[Stage]:
    data, tenth, teacher, pseudo = (str(out / name) for name in ("data", "data-10pct", "teacher", "pseudo"))
    prepare = ["prepare", "--synthetic", str(frames), "--out"]
    label = ["label", "--dataset", tenth, "--teacher", teacher, "--truth", data, "--out", pseudo]
    distill, transfer = ([name, "--config", recipe] for name, recipe in RECIPES.items())
    if scale_steps != 1:
        for command, path in ((distill, RECIPES["distill"]), (transfer, RECIPES["transfer"])):
            steps = read_yaml(recipe_file(path))["max_steps"]
            command += ["--max-steps", str(max(2, round(steps * scale_steps)))]
    distill += ["--dataset", tenth, "--base-model", str(out / "sam"), "--output-dir", teacher]
    students = {
        "student-10pct": ("student, 10 % alone", ["--dataset", tenth]),
        "student-pseudo": ("student, 10 % + pseudo labels", ["--dataset", tenth, "--pseudo-labels", pseudo]),
        "student-100pct": ("student, 100 %", ["--dataset", data]),
    }
    return [
        Stage("frames with all masks", out / "data", [*prepare, data]),
        Stage("frames with 10 % of the masks", out / "data-10pct", [*prepare, tenth, "--budget", "0.1"]),
        Stage("teacher", out / "teacher" / "metrics.json", distill),
        Stage("pseudo labels", out / "pseudo" / "summary.json", label),
        *(
            Stage(name, out / folder / "metrics.json", [*transfer, *rows, "--output-dir", str(out / folder)])
            for folder, (name, rows) in students.items()
        ),
    ]


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("demo", __doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything (default: %(default)s)")
    parser.add_argument(
        "--frames", type=between(int, 20, 10**6), default=300, help="training frames (default: %(default)s)"
    )
    parser.add_argument(
        "--scale-steps", type=between(float, 1e-3, 1e3), default=1.0, help="train for this many times the steps"
    )
    args = parser.parse_args(argv)
    if args.frames < 20 or args.scale_steps <= 0:
        parser.error("--frames must be at least 20, and --scale-steps positive")
    out = args.out
    recipes = {path: digest(path) for path in RECIPES.values()}
    claim(out, MARKER, {"--frames": args.frames, "--scale-steps": args.scale_steps, **recipes})

    began = time.monotonic()
    if not (out / "sam").exists():
        save_small_sam(out / "sam")
    todo = stages(out, args.frames, args.scale_steps)
    seconds = run_stages(out, todo, "the demo")

    from scalpel_hf.cli.demo_report import METRICS, results, row_of, write_report

    commands = [(s.name, "scalpel-hf " + shlex.join(s.command), seconds.get(s.name, 0)) for s in todo]
    report = write_report(out, commands)
    print(f"\n{'':32}" + "".join(f"{title:>10}" for title, _ in METRICS.values()))
    for name, metrics in results(out).items():
        print(f"{name:32}" + "".join(f"{value:>10}" for value in row_of(metrics)))
    print(f"\n{report.resolve()}  ({time.monotonic() - began:.0f} s)")
