import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
# By its path: with scripts/ on sys.path, its evaluate.py would hide the library of that name.
spec = spec_from_file_location("demo", ROOT / "scripts" / "demo.py")
demo = module_from_spec(spec)
spec.loader.exec_module(demo)


def test_the_small_sam_tells_places_and_frames_apart() -> None:
    model, frames = demo.small_sam(64).eval(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        embeddings = model.get_image_embeddings(frames)
    assert embeddings.std((-2, -1)).mean() > 0.1
    assert (embeddings[0] - embeddings[1]).abs().mean() > 0.1


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "no demo folder" in done.stderr
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_the_demo_runs_through_and_again(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--out", str(out), "--frames", "60"]
    for _ in range(2):
        done = subprocess.run([*command, "--scale-steps", "0.5"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert "student, 10 % + pseudo labels" in done.stdout
    assert "$ python" not in done.stdout  # the second time there was nothing left to do
    report = (out / "report.html").read_text()
    assert report.count("data:image/png") == 8 and "Fa 1e-6" in report
