"""A quarter of an hour of one GPU, used whole: the claim's arms and seeds side by side, and the next quarter goes on.

    python scripts/experiments/quarter_hour.py pack --datasets nuaa-sirst=data/NUAA-SIRST \\
        nudt-sirst=data/NUDT-SIRST --base-model models/mobile-sam --out pack
    python scripts/experiments/quarter_hour.py run --packs pack --minutes 9 --state state --out results/claim

`pack` writes archives of at most `--megabytes` each, for a machine that only little can be sent to: grey frames as
lossless WebP, the base's weights in half precision. `run` unpacks them and runs `reproduce.py` for each data set and
seed, `--jobs` at once. After `--minutes` it stops what still runs and writes what a fresh machine needs to go on to
archives in `--state`, and the JSON files of the finished arms to `--out` and, as few files are easier to fetch, to the
archives' `out/`. With `--state` in its place, the same command goes on there. `--quick` runs everything with a few
steps, to see that it works. With `--teacher-config nuaa_sirst/distill_1024`, and another `--out`, the teachers have all
three levels on SAM at 1024 pixels, ViT-B or ViT-L as `--base-model` packed.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from archives import (
    check_archives_alone,
    files_below,
    packed,
    read_archives,
    unpacked,
    write_archives,
    write_below,
)
from reproduce import DATASETS

from scalpel_hf.cli.numbers import COUNT, SEED, between
from scalpel_hf.cli.program import run_program
from scalpel_hf.training.run_record import METRICS_FILE

REPRODUCE = Path(__file__).with_name("reproduce.py")


def pack(args: argparse.Namespace) -> None:
    folders = {"base": args.base_model, **dict(args.datasets)}
    if len(folders) <= len(args.datasets):
        raise ValueError("--datasets names a data set twice")
    named = (
        (f"{name}/{path.relative_to(folder)}", path) for name, folder in folders.items() for path in files_below(folder)
    )
    write_archives((packed(name, path) for name, path in named), args.out, args.megabytes)


def goes_on(path: Path, work: Path, out: Path) -> bool:
    """Whether the next machine needs a file of `work`: of unfinished runs all, of finished teachers what answers."""
    folder, run, *rest = (*path.relative_to(work).parts, "", "")
    if folder == "data" or run.startswith("labels-") or "features" in rest:
        return False  # made again in seconds
    if run.startswith("teacher-"):
        finished = (work / folder / run / METRICS_FILE).exists()
        return not (finished and any(part.startswith("checkpoint-") for part in rest))
    return not any(out.glob(f"{folder}*/{run}.json"))


def keep_state(args: argparse.Namespace) -> None:
    work = [path for path in files_below(args.work) if goes_on(path, args.work, args.out)]
    results = sorted(args.out.rglob("*.json"))
    entries = [(f"work/{path.relative_to(args.work)}", path) for path in work]
    entries += [(f"out/{path.relative_to(args.out)}", path) for path in results]
    write_archives(((name, path.read_bytes()) for name, path in entries), args.state, args.megabytes)


def command(args: argparse.Namespace, dataset: str, *seeds: int) -> list[str]:
    where = ("--root", args.data / dataset, "--base-model", args.data / "base", "--work", args.work, "--out", args.out)
    quick = ("--quick",) if args.quick else ()
    teachers = ("--teacher-config", args.teacher_config) if args.teacher_config else ()
    options = ("--dataset", dataset, "--budget", *args.budget, "--seeds", *seeds, *where, *teachers, *quick)
    return [sys.executable, str(REPRODUCE), *map(str, options)]


def side_by_side(args: argparse.Namespace, jobs: list[tuple[str, int]], end: float) -> tuple[int, list[str]]:
    """Run jobs, so many at once, until they are done or it is `end`; how many are unfinished, and which failed."""
    threads = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}
    todo, failed = [*jobs], []
    running: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
    while (todo or running) and time.monotonic() < end:
        while todo and len(running) < args.jobs:
            dataset, seed = todo.pop(0)
            with open(args.work / f"{dataset}-{seed}.log", "ab") as log:
                program = command(args, dataset, seed)
                running[dataset, seed] = subprocess.Popen(program, stdout=log, stderr=log, env=threads)
        time.sleep(0.2)
        for job in [job for job, process in running.items() if process.poll() is not None]:
            failed += [f"{job[0]}-{job[1]}.log"] if running.pop(job).returncode else []
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.wait()
    return len(todo) + len(running), failed


def run(args: argparse.Namespace) -> None:
    end = time.monotonic() + 60 * args.minutes
    check_archives_alone(args.state)
    write_below(args.data, (unpacked(name, content) for name, content in read_archives(args.packs)))
    if args.state.exists():
        for name, content in read_archives(args.state):
            kind, _, rest = name.partition("/")
            if kind not in ("work", "out"):
                raise ValueError(f"{args.state} is no state of this program: it holds {name}")
            write_below(args.work if kind == "work" else args.out, [(rest, content)])
    datasets = [name for name in DATASETS if (args.data / name).is_dir()]
    if not datasets:
        raise ValueError(f"{args.packs} holds none of {', '.join(DATASETS)}")
    for dataset in datasets:  # once, before several want them
        subprocess.run(command(args, dataset), check=True)
    args.work.mkdir(parents=True, exist_ok=True)
    jobs = [(dataset, seed) for seed in args.seeds for dataset in datasets]
    unfinished, failed = side_by_side(args, jobs, end)
    keep_state(args)
    if failed:
        raise RuntimeError(f"failed: see {', '.join(failed)} in {args.work}, and in {args.state}")
    rest = f"{unfinished} unfinished: the same command with {args.state} resumes"
    print(f"{len(jobs)} jobs, {rest if unfinished else 'all done'}")


def named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or name not in DATASETS:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER, the name one of {', '.join(DATASETS)}")
    return name, Path(folder)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    packing = verbs.add_parser("pack")
    packing.set_defaults(act=pack)
    packing.add_argument("--datasets", type=named_folder, nargs="+", required=True, help="NAME=FOLDER as published")
    packing.add_argument("--base-model", type=Path, required=True, help="Segment Anything model of the teachers")
    packing.add_argument("--megabytes", type=between(float, 0.001, 1e6), default=60, help="of one archive at most")
    packing.add_argument("--out", type=Path, required=True, help="folder for the archives")
    running = verbs.add_parser("run")
    running.set_defaults(act=run)
    running.add_argument("--packs", type=Path, required=True, help="folder that `pack` wrote")
    running.add_argument("--minutes", type=between(float, 0.01, 1e5), default=9.0, help="stop after so many")
    running.add_argument("--jobs", type=COUNT, default=9, help="how many seeds and data sets run at once")
    running.add_argument("--seeds", type=SEED, nargs="+", default=[0, 1, 2])
    running.add_argument("--budget", type=between(float, 1e-4, 1.0), nargs="+", default=[0.1])
    running.add_argument("--teacher-config", help="recipe of the teachers, such as nuaa_sirst/distill_1024")
    running.add_argument("--data", type=Path, default=Path("/tmp/quarter/data"), help="where archives are unpacked")
    running.add_argument("--work", type=Path, default=Path("/tmp/quarter/work"), help="where models are made")
    running.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    running.add_argument("--state", type=Path, required=True, help="folder from which the next run goes on")
    running.add_argument("--megabytes", type=between(float, 0.001, 1e6), default=15, help="of an archive at most")
    running.add_argument("--quick", action="store_true", help="a few steps each, to see that it works")
    args = parser.parse_args(argv)
    args.act(args)


if __name__ == "__main__":
    run_program(main, resumes=True)
