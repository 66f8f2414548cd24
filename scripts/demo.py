"""The whole job on synthetic frames, with no data and no network.

    python scripts/demo.py --out demo

Makes frames and a small Segment Anything model of random weights, trains a teacher on 10 % of the labels, has it label
the rest, trains three students (10 % alone, 10 % and pseudo labels, 100 %), and ends with a table and OUT/report.html.
The commands are the ones for real data and are printed as they run. Run again after a kill to go on.
"""

import argparse
import base64
import io
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

from scalpel_hf import Student, Teacher
from scalpel_hf.data import load_prepared
from scalpel_hf.visualization import comparison

ROOT = Path(__file__).parents[1]
FIGURES = ("iou", "niou", "pd", "fa")


def small_sam(size: int = 256) -> SamModel:
    """A SAM of random weights, of a spread at which it is not constant across space, as at transformers' 1e-10."""
    vision = {
        "hidden_size": 64,
        "output_channels": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": size,
        "window_size": 4,
        "mlp_dim": 256,
        "num_pos_feats": 32,
        "global_attn_indexes": [1, 3],
        "initializer_range": 0.1,
    }
    prompt = SamPromptEncoderConfig(hidden_size=64, image_size=size, image_embedding_size=size // 16)
    decoder = SamMaskDecoderConfig(hidden_size=64, mlp_dim=128, num_attention_heads=2, iou_head_hidden_dim=64)
    torch.manual_seed(0)
    return SamModel(
        SamConfig(
            vision_config=SamVisionConfig(**vision),
            prompt_encoder_config=prompt.to_dict(),
            mask_decoder_config=decoder.to_dict(),
            initializer_range=0.1,
        )
    )


def run(done: Path, *command: str) -> float:
    """Run one of the project's commands unless it has left `done`; seconds it took."""
    if done.exists():
        return 0.0
    print("\n$ python " + shlex.join(command), flush=True)
    began = time.monotonic()
    if subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit("error: the command above failed; run the demo again to go on from there")
    return time.monotonic() - began


def picture(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def write_report(out: Path, table: list[tuple[str, dict[str, float]]], pictures: list[Image.Image]) -> Path:
    head = "".join(f"<th>{h}</th>" for h in ("", "IoU %", "nIoU %", "Pd %", "Fa 1e-6"))
    body = "".join(f"<tr><td>{name}</td>{''.join(f'<td>{v}</td>' for v in row_of(m))}</tr>" for name, m in table)
    summary = json.loads((out / "pseudo" / "summary.json").read_text())
    page = f"""<!doctype html><meta charset="utf-8"><title>scalpel-hf demo</title>
<style>body{{font-family:sans-serif;max-width:70em;margin:auto}}td,th{{padding:.3em 1em;text-align:right}}
td:first-child{{text-align:left}}img{{width:100%}}</style>
<h1>scalpel-hf on synthetic frames</h1>
<p>Frames of our own generator, and a Segment Anything model of <b>random weights</b>: the teacher lives on its
operators and its branch alone. What the method does with real frames and real weights stands in docs/results.md.</p>
<h2>On the test frames</h2><table><tr>{head}</tr>{body}</table>
<p>Threshold 0.5, targets matched within 3 pixels, one seed. By the field's rule a frame without a target counts 0 in
nIoU, which therefore stays below the share of frames that have one.</p>
<h2>Pseudo labels</h2><p>{summary["human"]} human masks, {summary["pseudo"]} pseudo labels: {summary["empty"]} without a
target, {summary["one"]} with one, {summary["many"]} with more.</p>
<h2>Frame, truth, the teacher's prior, teacher, student on 10 %, student with pseudo labels, student on 100 %</h2>
{"".join(picture(p) for p in pictures)}
<h2>With your own frames</h2><p>The README's section “The job on your frames” has the same commands.</p>"""
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def row_of(metrics: dict[str, float]) -> list[str]:
    return [f"{metrics[f] if f == 'fa' else 100 * metrics[f]:.1f}" for f in FIGURES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=300, help="training frames (default: %(default)s)")
    parser.add_argument("--scale-steps", type=float, default=1.0, help="train for this many times the steps")
    args = parser.parse_args()
    out = args.out.resolve()
    if out.exists() and not (out / ".scalpel-demo").exists():
        sys.exit(f"error: {out} exists and is no demo folder: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / ".scalpel-demo").touch()
    steps = {"teacher": str(max(2, int(500 * args.scale_steps))), "student": str(max(2, int(500 * args.scale_steps)))}

    began = time.monotonic()
    for name, budget in (("data", []), ("data-10pct", ["--budget", "0.1"])):
        make = ["scripts/prepare.py", "--synthetic", str(args.frames), "--out", str(out / name)]
        run(out / name, *make, *budget)
    if not (out / "sam").exists():
        small_sam().save_pretrained(out / "sam.tmp")
        (out / "sam.tmp").rename(out / "sam")
    tenth, all_labels, teacher = str(out / "data-10pct"), str(out / "data"), out / "teacher"
    run(
        teacher / "metrics.json",
        *("recipes/distill.py", "--config", "recipes/demo/distill.yaml", "--dataset", tenth),
        *("--base_model", str(out / "sam"), "--output_dir", str(teacher), "--max_steps", steps["teacher"]),
    )
    run(
        out / "pseudo" / "summary.json",
        *("scripts/pseudo_label.py", "--dataset", tenth, "--teacher", str(teacher), "--truth", all_labels),
        *("--out", str(out / "pseudo")),
    )
    students = {
        "student-10pct": ["--dataset", tenth],
        "student-pseudo": ["--dataset", tenth, "--pseudo_labels", str(out / "pseudo")],
        "student-100pct": ["--dataset", all_labels],
    }
    for name, data in students.items():
        run(
            out / name / "metrics.json",
            *("recipes/transfer.py", "--config", "recipes/demo/transfer.yaml", *data),
            *("--output_dir", str(out / name), "--max_steps", steps["student"]),
        )

    labels = ("teacher, 10 % of the labels", "student, 10 % alone", "student, 10 % + pseudo labels", "student, 100 %")
    folders = ("teacher", *students)
    measured = [json.loads((out / f / "metrics.json").read_text())["metrics"]["test"] for f in folders]
    table = list(zip(labels, measured, strict=True))
    rows = load_prepared(all_labels)["test"]
    rows = rows.select(range(min(8, len(rows))))
    models = [Student.from_pretrained(out / name) for name in students]
    pictures = comparison(rows, Teacher.from_pretrained(teacher), models)
    report = write_report(out, table, pictures)
    print(f"\n{'':32}{'IoU':>8}{'nIoU':>8}{'Pd':>8}{'Fa':>9}")
    for name, metrics in table:
        print(f"{name:32}" + "".join(f"{v:>8}" for v in row_of(metrics)))
    print(f"\n{report}  ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
