"""A script's own folder comes first on sys.path, so a script hides whatever library is called like it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["recipes", "scripts"])
def test_no_program_is_called_like_a_library(folder: str) -> None:
    names = sorted(path.stem for path in (ROOT / folder).glob("*.py"))
    assert names
    code = f"import importlib.util\nprint([n for n in {names!r} if importlib.util.find_spec(n)])"
    done = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
