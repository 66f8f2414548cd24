"""
The examples in docstrings, run as they stand.

They run in a folder that has `frame.png`, and a student with its ONNX file at `runs/nuaa/student`. What needs weights
from the Hub is marked `# doctest: +SKIP`.
"""

import doctest
import importlib
import re
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("onnxruntime")
from scalpel_hf import SyntheticInfrared
from tests.runtime.made_by_hand import write_student
from tests.small_students import small_student

ROOT = Path(__file__).parents[1]
FILES = [
    *((ROOT / "scalpel_hf").rglob("*.py")),
    *((ROOT / "scalpel_hf" / file.relative_to(ROOT)) for file in (ROOT / "modeling").glob("*.py")),
]


def modules_with_examples() -> list[str]:
    names = [file.relative_to(ROOT).with_suffix("") for file in FILES if ">>> " in file.read_text(encoding="utf-8")]
    return sorted({".".join(name.parts).removesuffix(".__init__") for name in names})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    frame = SyntheticInfrared(size=(64, 96), n_targets=(1, 1)).frame(0)
    Image.fromarray(frame["image"]).save(folder / "frame.png")
    small_student().save_pretrained(folder / "runs" / "nuaa" / "student")
    write_student(folder / "runs" / "nuaa" / "student")
    return folder


@pytest.fixture(autouse=True)
def in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_give_what_they_say(name: str) -> None:
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not failed and (tried or "doctest: +SKIP" in Path(str(module.__file__)).read_text(encoding="utf-8"))


def test_the_site_shows_examples_as_code() -> None:
    """As Google's style has it: a section `Example:` would be prose."""
    assert [str(file) for file in FILES if re.search(r"^ +Example:$", file.read_text(encoding="utf-8"), re.M)] == []
