import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scalpel_hf import SyntheticInfrared
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
        prompted = model(image_embeddings=embeddings, input_boxes=torch.tensor([[[8.0, 8.0, 20.0, 24.0]]] * 2))
    assert embeddings.std((-2, -1)).mean() > 0.1
    assert (embeddings[0] - embeddings[1]).abs().mean() > 0.1
    assert prompted.iou_scores.isfinite().all()  # which quality control asks it for


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="is no folder of this command"):
        demo.main(["--out", str(tmp_path)])
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("flags", [["--frames", "5"], ["--masks", "0"], ["--max-steps", "-1"]], ids=" ".join)
def test_wrong_settings(tmp_path: Path, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        demo.main(["--out", str(tmp_path / "demo"), *flags])
    assert end.value.code == 2 and f"argument {flags[0]}: must be a" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_folder_of_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    out, settings = tmp_path / "demo", {"--frames": 300, "--masks": 8, "--max-steps": None}
    claim(out, demo.MARKER, settings)
    (out / "frames").mkdir()
    claim(out, demo.MARKER, settings)
    for changes, said in (
        ({"--frames": 40}, "--frames 300, now 40"),
        ({"--masks": 9}, "--masks 8, now 9"),
        ({"--max-steps": 5}, "--max-steps None, now 5"),
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


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that is stopped and started again: its data set is prepared once."""
    return tmp_path_factory.mktemp("begun") / "demo"


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_stopped_it_leaves_no_process_behind(begun: Path, sent: signal.Signals, status: int) -> None:
    command = [sys.executable, *PROGRAM, "--out", str(begun), "--frames", "20", "--max-steps", "5000"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore it, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("$ scalpel-hf distill"):
        assert process.poll() is None
    while len(processes_about(begun)) < 2:
        time.sleep(0.05)
    os.kill(process.pid, sent)
    _, said = process.communicate()  # until the stage's end of the pipes is closed too
    assert process.returncode == status
    if sent != signal.SIGKILL:
        word = "interrupted" if sent == signal.SIGINT else "terminated"
        assert said.endswith(f"\n{word}; run the same command again to resume\n")
    assert "Traceback" not in said
    assert not processes_about(begun)
    assert not (begun / "run" / "teacher").exists()


def test_its_frames_are_a_persons_folder(tmp_path: Path) -> None:
    demo.write_frames(SyntheticInfrared(size=(32, 48), extent=(2, 4)), tmp_path / "made", range(5, 9), 3)
    assert [f.stem[-1] for f in sorted((tmp_path / "made" / "frames").iterdir())] == ["5", "6", "7", "8"]
    assert [f.stem[-1] for f in sorted((tmp_path / "made" / "masks").iterdir())] == ["5", "6", "7"]


@pytest.mark.slow
def test_the_demo_runs_through_and_again(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, *PROGRAM, "--out", str(out), "--frames", "40", "--max-steps", "100"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "student, labels and pseudo labels" in done.stdout and f"{demo.TEST_FRAMES} frames" in done.stdout
    assert done.stdout.count("$ scalpel-hf") == 1  # the second time there was nothing left to do
    report = (out / "run" / "report.html").read_text()
    assert "data:image/png" in report and "Fa 1e-6" in report
