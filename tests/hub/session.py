"""The transcript in docs/how_to/hub.md: a user's session against a loopback Hub, with its pictures.

    python -m tests.hub.session --weights ../shared/weights/mobile_sam.pt

Runs every command that the document shows, in a temporary folder, and writes what they print between the document's
markers. Without weights the base is a small MobileSAM of random ones, which shows no more than that everything runs.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.hub.server import HubServer

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- session: made by tests/hub/session.py -->", "<!-- end of session -->"
PORT = "http://127.0.0.1:8000"  # in place of the port that the system gave
TRAIN = "--max-steps {steps} --batch-size 8 --crop-size 64 --learning-rate 3e-3"

PREPARE = """
scalpel-hf prepare --synthetic {frames} --budget 0.25 --out data/tiny
scalpel-hf push data/tiny org/tiny-infrared --license apache-2.0
"""
BASE = """
scalpel-hf convert mobile-sam mobile_sam.pt models/mobile-sam
scalpel-hf push models/mobile-sam org/mobile-sam
"""
TEACHER = """
scalpel-hf distill --dataset org/tiny-infrared --base-model org/mobile-sam --image-size {size}
    {train} {gate}--output-dir runs/teacher --push-to-hub org/tiny-teacher
scalpel-hf push runs/teacher org/tiny-teacher-alone --standalone
"""
STUDENT = """
scalpel-hf label --dataset org/tiny-infrared --teacher org/tiny-teacher --out runs/pseudo
    {label}--push-to-hub org/tiny-pseudo
scalpel-hf transfer --dataset org/tiny-infrared --pseudo-labels org/tiny-pseudo
    --size nano {train} --output-dir runs/student --push-to-hub org/tiny-student
"""
PREDICT = """
import sys

import torch
from datasets import load_dataset
from transformers import AutoModel, AutoProcessor

repo = sys.argv[1]
model = AutoModel.from_pretrained(repo, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
frame = load_dataset("org/tiny-infrared", split="test")[0]["image"]
inputs = processor(frame, return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
mask = processor.post_process_semantic_segmentation(outputs, target_sizes=inputs["original_sizes"])[0]
print(type(model).__name__, "finds", int(mask.sum()), "pixels of targets in", tuple(mask.shape))
"""
LOAD = """
import scalpel_hf
from transformers import AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation

print(type(AutoModel.from_pretrained("org/tiny-teacher", image_size={size})).__name__)  # base and adapter
print(type(AutoModel.from_pretrained("org/tiny-teacher-alone")).__name__)
print(type(AutoModelForSemanticSegmentation.from_pretrained("org/tiny-student")).__name__)
print(type(AutoImageProcessor.from_pretrained("org/tiny-student")).__name__)
"""
TEXT = """
## A session

`tests/hub/session.py` ran these commands against a Hub on loopback.
{base}

Frames with a quarter of their masks, and their repository:

{prepare}

The base:

{base_commands}

The teacher is trained from the Hub and pushed as an adapter, then as one model:

{teacher}

The picture on its card: test frames, truth in green, predictions in red. So few frames make no good teacher.

![The teacher's picture grid]({pictures}teacher.png)

It labels the other frames, and a student learns from both:

{student}

![The student's picture grid]({pictures}student.png)

Where scalpel-hf is not installed, `predict.py` loads either by the code in its repository:

```python{predict}```

{predicted}

Where it is installed, `load.py` runs no code of a repository:

```python{load}```

{loaded}
"""


class Session:
    """Commands in a folder, and what they print."""

    def __init__(self, hub: HubServer, folder: Path):
        self.hub, self.folder = hub, folder

    def shell(self, commands: str, where: str = "work", without_package: bool = False, **env: str) -> str:
        """
        Run commands, one a line or indented over several; returns the Markdown of them and their output.

        Args:
            without_package: scalpel_hf can't be imported.
            env: further environment variables, which the Markdown shows.
        """
        shown = []
        for command in re.sub(r"\n +", " ", commands.strip()).splitlines():
            output = self._run(shlex.split(command), where, without_package, env)
            settings = "".join(f"{key}={value} " for key, value in env.items())
            shown.append(f"$ {settings}{_wrapped(command)}\n{output}")
        return "```console\n" + "\n".join(shown).rstrip() + "\n```"

    def _run(self, words: list[str], where: str, without_package: bool, env: dict[str, str]) -> str:
        program = words[1:] if words[0] == "python" else ["-m", "scalpel_hf", *words[1:]]
        if without_package:
            packages = next(path for path in sys.path if path.endswith("site-packages"))
            start = f"import runpy, sys; sys.path.append({packages!r}); sys.argv = {program}; "
            program = ["-S", "-E", "-c", start + f"runpy.run_path({program[0]!r}, run_name='__main__')"]
        done = subprocess.run(
            [sys.executable, *program],
            cwd=self.folder / where,
            env={**self.hub.env, "ACCELERATE_USE_CPU": "1", **env},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}")
        lines = done.stdout.replace(self.hub.endpoint, PORT).replace(str(self.folder), "~").splitlines()
        output = "\n".join(line[:160].rstrip() for line in lines if line.strip())
        return re.sub(r"^\{\n.*?^\}$", "{ … }", output, flags=re.DOTALL | re.MULTILINE)  # a summary in JSON


def _wrapped(command: str) -> str:
    """A command over several lines of at most 110 characters."""
    lines = [""]
    for word in re.split(r" (?=--)", command):
        if len(lines[-1]) + len(word) > 110:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(lines)


def run_session(folder: Path, pictures: Path, weights: Path | None, frames: int, size: int, steps: int) -> str:
    """The session's Markdown; its pictures go to a folder."""
    train = TRAIN.format(steps=steps)
    for name in ("work", "elsewhere"):
        (folder / name).mkdir()
    with HubServer() as hub:
        hub.home = folder / "hf_home"
        session = Session(hub, folder)
        made = {"prepare": session.shell(PREPARE.format(frames=frames))}
        if weights is None:
            from tests.small_models import small_mobile_sam

            small_mobile_sam().save_pretrained(folder / "work" / "models" / "mobile-sam")
            (folder / "work" / "models" / "mobile-sam" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
            made["base_commands"] = session.shell(BASE.strip().splitlines()[1])
        else:
            os.symlink(weights.resolve(), folder / "work" / "mobile_sam.pt")
            made["base_commands"] = session.shell(BASE)
        # On random weights and few steps a teacher is sure of nothing, least of all behind a gate.
        gate, label = ("", "") if weights else ("--fit-consensus-gate false ", "--threshold 0.000001 --no-calibration ")
        made["teacher"] = session.shell(TEACHER.format(size=size, train=train, gate=gate))
        made["student"] = session.shell(STUDENT.format(train=train, label=label))
        hub.home = folder / "elsewhere_home"  # nothing is cached there
        (folder / "elsewhere" / "predict.py").write_text(PREDICT)
        (folder / "elsewhere" / "load.py").write_text(LOAD.format(size=size))
        predict = "".join(f"python predict.py org/tiny-{name}\n" for name in ("teacher-alone", "student"))
        made["predicted"] = session.shell(predict, "elsewhere", without_package=True)
        made["loaded"] = session.shell("python load.py", "elsewhere")
        session.shell("python load.py", "elsewhere", HF_HUB_OFFLINE="1")
        made["loaded"] += "\n\nOnce downloaded, it works offline too, with `HF_HUB_OFFLINE=1`."
        collect_pictures(hub, pictures)
    base = "The base is MobileSAM with its published weights." if weights else "The base has random weights."
    return TEXT.format(base=base, predict=PREDICT, load=LOAD.format(size=size), pictures="../pictures/hub_", **made)


def collect_pictures(hub: HubServer, pictures: Path) -> None:
    pictures.mkdir(exist_ok=True)
    for name in ("teacher", "student"):
        repo = hub.repo("model", f"org/tiny-{name}", "write")
        (pictures / f"hub_{name}.png").write_bytes(repo.at("main").files["examples.png"].data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="mobile_sam.pt")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--size", type=int, default=256, help="side of SAM's input in pixels")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the documents and their pictures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text = run_session(Path(folder), args.docs / "pictures", args.weights, args.frames, args.size, args.steps)
    document = args.docs / "how_to" / "hub.md"
    before, after = document.read_text().split(BEGIN)[0], document.read_text().split(END)[1]
    document.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
