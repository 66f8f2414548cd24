"""The notebook runs from top to bottom, and is kept without what it printed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "tutorial" / "first_steps.ipynb"
COLAB = "https://colab.research.google.com/"
BADGE = re.compile(rf"\[!\[Open in Colab\]\({COLAB}assets/colab-badge\.svg\)\]\((\S+?)\)")


def cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_outputs_are_stripped() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells())


def test_the_badge_leads_to_the_repository_where_one_is_named() -> None:
    """In pyproject.toml; where there is none yet, to Colab, where the file is uploaded."""
    urls = re.findall(r"^Repository = \"https://github\.com/(.+?)/?\"$", (ROOT / "pyproject.toml").read_text(), re.M)
    path = NOTEBOOK.relative_to(ROOT).as_posix()
    expected = [f"{COLAB}github/{urls[0]}/blob/main/{path}" if urls else COLAB]
    heading = "".join(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"][0]["source"])
    assert BADGE.findall(heading) == BADGE.findall((ROOT / "README.md").read_text()) == expected


@pytest.mark.parametrize(("there", "status"), [(True, 0), (False, 0), (False, 1)])
def test_its_first_cell_installs_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, status: int
) -> None:
    commands: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if there else None)
    done = SimpleNamespace(returncode=status)
    monkeypatch.setattr("subprocess.run", lambda command, **_: commands.append(command) or done)
    cell = "".join(cells()[0]["source"])
    if status:
        with pytest.raises(SystemExit, match="scalpel-hf can't be installed: set SOURCE to a wheel"):
            exec(cell, {})
    else:
        exec(cell, {})
    assert commands == ([] if there else [[sys.executable, "-m", "pip", "install", "-q", "scalpel-hf"]])
    monkeypatch.chdir(NOTEBOOK.parent)  # in a checkout it is the checkout's
    commands.clear()
    if not (there or status):
        exec(cell, {})
        assert commands[0][-1] == "../.." and (Path(commands[0][-1]) / "pyproject.toml").is_file()


@pytest.mark.timeout(1800)  # half a minute of a core, however busy
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    code = "\n".join("".join(cell["source"]) for cell in cells())
    closing = """
assert prediction.routers and len(shown) > 0, "the teacher labels nothing"
assert (found & truth).any(), "the student finds nothing"
"""
    command = [sys.executable, "-c", code + closing]
    environment = {**os.environ, "PYTHONPATH": str(NOTEBOOK.parents[2]), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=1700
    )
    assert done.returncode == 0, done.stderr[-3000:]
