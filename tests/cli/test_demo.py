import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scalpel_hf.cli import demo
from scalpel_hf.cli.small_sam import small_sam
from scalpel_hf.cli.stages import claim

ROOT = Path(__file__).parents[2]
PROGRAM = ["-m", "scalpel_hf", "demo"]


def processes_about(folder: Path) -> list[int]:
    """Those with the folder in their command line."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder) in file.read_text(errors="replace"):
                found.append(int(file.parent.name))
        except OSError:  # it has ended meanwhile
            pass
    return found


def test_the_small_sam_tells_places_and_frames_apart() -> None:
    model, frames = small_sam(64).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        embeddings = model.get_image_embeddings(frames)
    assert embeddings.std((-2, -1)).mean() > 0.1
    assert (embeddings[0] - embeddings[1]).abs().mean() > 0.1


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    command = [sys.executable, *PROGRAM, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is no folder of this command" in done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("flags", [["--frames", "5"], ["--scale-steps", "0"]], ids=" ".join)
def test_wrong_settings(tmp_path: Path, flags: list[str]) -> None:
    command = [sys.executable, *PROGRAM, "--out", str(tmp_path / "demo"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"argument {flags[0]}: must be a" in done.stderr
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    out, settings = tmp_path / "demo", {"--frames": 300, "--scale-steps": 1.0, "recipes/demo/distill.yaml": "abc"}
    claim(out, demo.MARKER, settings)
    claim(out, demo.MARKER, settings)
    for changes, said in (
        ({"--frames": 40}, "--frames 300, now 40"),
        ({"--scale-steps": 0.1}, "--scale-steps 1.0, now 0.1"),
        ({"recipes/demo/distill.yaml": "def"}, "recipes/demo/distill.yaml abc, now def"),
    ):
        with pytest.raises(
            ValueError, match=rf"demo was made with other settings \({said}\): resume with the same, ch"
        ):
            claim(out, demo.MARKER, {**settings, **changes})
    (out / demo.MARKER).write_text("")  # as the first demos left it
    with pytest.raises(ValueError, match=r"--frames unknown, now 300.* or remove the folder"):
        claim(out, demo.MARKER, settings)


def test_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "demo", tmp_path / "file"):
        with pytest.raises(ValueError, match=r"file.*: choose another --out"):
            claim(out, demo.MARKER, {})


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_stopped_it_leaves_no_process_behind(tmp_path: Path, sent: signal.Signals, status: int) -> None:
    out = tmp_path / "demo"
    (out / "sam").mkdir(parents=True)  # so that its stages start at once
    recipes = {path: demo.digest(path) for path in demo.RECIPES.values()}
    (out / demo.MARKER).write_text(json.dumps({"--frames": 5000, "--scale-steps": 1.0, **recipes}))
    command = [sys.executable, *PROGRAM, "--out", str(out), "--frames", "5000"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore it, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("$ scalpel-hf prepare"):
        assert process.poll() is None
    while len(processes_about(out)) < 2:
        time.sleep(0.05)
    os.kill(process.pid, sent)
    _, said = process.communicate()  # until the stage's end of the pipes is closed too
    assert process.returncode == status
    if sent != signal.SIGKILL:
        word = "interrupted" if sent == signal.SIGINT else "terminated"
        assert said.endswith(f"\n{word}; run the same command again to resume\n")
    assert "Traceback" not in said
    assert not processes_about(out)
    assert not (out / "data").exists()


@pytest.mark.slow
def test_the_demo_runs_through_and_again(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, *PROGRAM, "--out", str(out), "--frames", "60", "--scale-steps", "0.5"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "student, 10 % + pseudo labels" in done.stdout
    assert "$ scalpel-hf" not in done.stdout  # the second time there was nothing left to do
    report = (out / "report.html").read_text()
    assert report.count("data:image/png") == 6 * 8 + 4 * 4 and "Fa 1e-6" in report
    assert str(tmp_path) not in report
