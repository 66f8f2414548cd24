"""docs/how_to/deploy.md as a user follows it: every `bash` and `python` block, in its order, in a fresh folder."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

pytest.importorskip("onnxscript")
pytest.importorskip("av")
from scalpel_hf import SyntheticInfrared
from tests.runtime.made_by_hand import write_video
from tests.small_students import small_detector, small_student
from tests.test_recipes import ROOT

BLOCKS = re.findall(r"```(bash|python)\n(.*?)```", (ROOT / "docs" / "how_to" / "deploy.md").read_text(), re.DOTALL)
WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
def test_every_command_and_snippet_works(tmp_path: Path) -> None:
    camera = SyntheticInfrared(size=(64, 80), n_targets=(1, 2), extent=(2, 5), bit_depth=16, seed=3)
    splits = {"train": camera.to_dataset(4), "test": camera.to_dataset(3, start=4)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "data/nuaa"))
    small_student().save_pretrained(tmp_path / "runs/nuaa/student")
    small_detector().save_pretrained(tmp_path / "runs/nuaa/detector")
    frames = [camera.frame(index)["image"] for index in range(3)]
    (tmp_path / "frames").mkdir()
    for index, row in enumerate(splits["test"]):
        row["image"].save(tmp_path / "frames" / f"{index}.png")
    splits["test"][0]["image"].save(tmp_path / "frame.png")
    write_video(tmp_path / "recording.mkv", frames, "ffv1", "gray16le")

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds.count("bash") >= 3 and kinds.count("python") >= 2
    for kind, block in BLOCKS:
        if kind == "bash":
            commands = [shlex.split(line) for line in block.strip().splitlines()]
            assert all(command[0] == "scalpel-hf" for command in commands)
            commands = [[sys.executable, "-m", "scalpel_hf", *command[1:]] for command in commands]
        else:
            commands = [[sys.executable, "-c", WITHOUT_TORCH + block]]
        for command in commands:
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    for name in ("boxes.jsonl", "video.jsonl"):
        lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        assert len(lines) == 3 and any(line["boxes"] for line in lines)
