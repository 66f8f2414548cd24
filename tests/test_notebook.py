"""The notebook runs from top to bottom, and is kept without what it printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial" / "first_steps.ipynb"


def cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_outputs_are_stripped() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells())


@pytest.mark.slow
@pytest.mark.timeout(1800)  # half a minute of a core, however busy
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    code = "\n".join("".join(cell["source"]) for cell in cells())
    closing = """
assert answer.routers and len(shown) > 0, "the teacher labels nothing"
assert (found & truth).any(), "the student finds nothing"
"""
    command = [sys.executable, "-c", code + closing]
    environment = {**os.environ, "PYTHONPATH": str(NOTEBOOK.parents[2]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=1700
    )
    assert done.returncode == 0, done.stderr[-3000:]
