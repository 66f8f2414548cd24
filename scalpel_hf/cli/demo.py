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
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalpel_hf.cli.numbers import between
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.utils.files import read_json, read_yaml, whole_folder, write_json
from scalpel_hf.utils.recipe_files import recipe_file

if TYPE_CHECKING:
    from transformers import SamModel

RECIPES = {name: f"demo/{name}" for name in ("distill", "transfer")}
MARKER = ".scalpel-demo"  # in a demo's folder: the settings it was made with

# Runs a verb as `scalpel-hf VERB …` does, and ends with the demo, which holds the other end of its stdin.
TETHERED = """
import os, runpy, signal, sys, threading

def wait_for_the_end():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=wait_for_the_end, daemon=True).start()
runpy.run_module("scalpel_hf", run_name="__main__")
"""


def digest(recipe: str) -> str:
    return hashlib.sha256(recipe_file(recipe).read_bytes()).hexdigest()[:12]


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Make the demo's folder, or make sure that it is one of the same settings; else exit with the remedy."""
    marker = out / MARKER
    try:
        if not marker.is_file():
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                sys.exit(f"error: {out} exists and is no demo folder: choose another --out")
            out.mkdir(parents=True, exist_ok=True)
            write_json(marker, settings)
            return
        before = read_json(marker) if marker.stat().st_size else {}
    except (OSError, ValueError) as error:
        sys.exit(f"error: can't use {out} ({error}): choose another --out")
    changed = [f"{k} {before.get(k, 'unknown')}, now {v}" for k, v in settings.items() if before.get(k) != v]
    if changed:
        sys.exit(
            f"error: {out} was made with other settings ({'; '.join(changed)}): resume with the same, choose another "
            "--out, or remove the folder"
        )


def small_sam(size: int = 256) -> "SamModel":
    """A SAM of random weights, of a spread at which it is not constant across space, as at transformers' 1e-10."""
    import torch  # here, so that the demo answers at once and doesn't hold torch while its stages run
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    vision = SamVisionConfig(
        hidden_size=64,
        output_channels=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=size,
        window_size=4,
        mlp_dim=256,
        num_pos_feats=32,
        global_attn_indexes=[1, 3],
        initializer_range=0.1,
    )
    prompt = SamPromptEncoderConfig(hidden_size=64, image_size=size, image_embedding_size=size // 16)
    decoder = SamMaskDecoderConfig(hidden_size=64, mlp_dim=128, num_attention_heads=2, iou_head_hidden_dim=64)
    torch.manual_seed(0)
    return SamModel(
        SamConfig(
            vision_config=vision,
            prompt_encoder_config=prompt.to_dict(),
            mask_decoder_config=decoder.to_dict(),
            initializer_range=0.1,
        )
    )


def save_small_sam(folder: Path) -> None:
    with whole_folder(folder) as part:
        small_sam().save_pretrained(part)


def run(command: list[str]) -> None:
    """Run a verb of `scalpel-hf`; it ends when this program does, however that comes about."""
    print("\n$ scalpel-hf " + shlex.join(command), flush=True)
    # In a session of its own, where Ctrl-C doesn't reach it: it is stopped here, without a traceback of its own.
    child = subprocess.Popen([sys.executable, "-c", TETHERED, *command], stdin=subprocess.PIPE, start_new_session=True)
    try:
        status = child.wait()
    finally:
        child.terminate()
        child.wait()
    if status:
        sys.exit(f"error: the command above failed (status {status}); run the demo again to resume")


def stages(out: Path, frames: int, scale_steps: float) -> list[tuple[str, Path, list[str]]]:
    """Name of each stage, the file or folder that it leaves when it is done, and its command."""
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
        ("frames with all masks", out / "data", [*prepare, data]),
        ("frames with 10 % of the masks", out / "data-10pct", [*prepare, tenth, "--budget", "0.1"]),
        ("teacher", out / "teacher" / "metrics.json", distill),
        ("pseudo labels", out / "pseudo" / "summary.json", label),
        *(
            (name, out / folder / "metrics.json", [*transfer, *rows, "--output-dir", str(out / folder)])
            for folder, (name, rows) in students.items()
        ),
    ]


def run_stages(out: Path, todo: list[tuple[str, Path, list[str]]]) -> dict[str, float]:
    """Run the stages that aren't done; seconds that each took, over all of the demo's runs."""
    times = out / "times.json"
    seconds: dict[str, float] = read_json(times) if times.exists() else {}
    for name, done, command in todo:
        if done.exists():
            continue
        began = time.monotonic()
        try:
            run(command)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
            write_json(times, seconds)
    return seconds


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
    claim(out, {"--frames": args.frames, "--scale-steps": args.scale_steps, **recipes})

    began = time.monotonic()
    if not (out / "sam").exists():
        save_small_sam(out / "sam")
    todo = stages(out, args.frames, args.scale_steps)
    seconds = run_stages(out, todo)

    from scalpel_hf.cli.demo_report import METRICS, results, row_of, write_report

    commands = [(name, "scalpel-hf " + shlex.join(c), seconds.get(name, 0)) for name, _, c in todo]
    report = write_report(out, commands)
    print(f"\n{'':32}" + "".join(f"{title:>10}" for title, _ in METRICS.values()))
    for name, metrics in results(out).items():
        print(f"{name:32}" + "".join(f"{value:>10}" for value in row_of(metrics)))
    print(f"\n{report.resolve()}  ({time.monotonic() - began:.0f} s)")
