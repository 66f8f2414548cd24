import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from scalpel_hf import SyntheticInfrared
from tests.small_models import small_mobile_sam

ROOT = Path(__file__).parents[1]
DATA = {".css", ".html", ".js", ".md"}


PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's wheel, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("scalpel_hf", "modeling", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)])
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """A folder with the package installed from the wheel."""
    run([*PIP, "install", "--no-deps", "--target", str(wheel.parent / "site"), str(wheel)])
    return wheel.parent / "site"


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Path:
    """A fresh virtual environment with the wheel, which finds the libraries of this one."""
    folder = wheel.parent / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    run([*PIP[:3], "--python", str(folder / "bin" / "python"), *PIP[3:], "install", "--no-deps", str(wheel)])
    return folder


def fresh(site: Path, code: str) -> str:
    """Run code in a new interpreter elsewhere, which finds the wheel's package before any other."""
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=site.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}
        metadata = [n for n in archive.namelist() if ".dist-info/" in n]
    expected = {f.relative_to(ROOT).as_posix() for f in (ROOT / "scalpel_hf").rglob("*.py")}
    for linked in ("modeling", "recipes"):
        expected |= {f"scalpel_hf/{linked}/{f.name}" for f in (ROOT / linked).glob("*.py")}
    assert {n for n in names if n.endswith(".py")} == expected
    assert {"scalpel_hf/py.typed", "scalpel_hf/modeling/py.typed"} <= names
    recipes = {f"scalpel_hf/{f.relative_to(ROOT).as_posix()}" for f in (ROOT / "recipes").rglob("*.yaml")}
    assert recipes and recipes == {n for n in names if n.endswith(".yaml")}
    data = {f.relative_to(ROOT).as_posix() for f in (ROOT / "scalpel_hf").rglob("*.*") if f.suffix in DATA}
    assert {"scalpel_hf/cli/run_report.html", "scalpel_hf/hub/model_card.md"} <= data <= names
    assert any(n.endswith("LICENSE") for n in metadata)


def test_everything_comes_from_the_wheel_and_works(site: Path) -> None:
    code = """
import scalpel_hf
assert not {"torch", "transformers", "peft", "datasets"} & set(sys.modules), "importing the package is not light"
import torch
from scalpel_hf.modeling import operators
from scalpel_hf import ScalpelStudentConfig, ScalpelStudentForSemanticSegmentation
for name in scalpel_hf.__all__:
    assert getattr(scalpel_hf, name) is not None, name
assert sorted(scalpel_hf.__all__) == dir(scalpel_hf)
model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size("nano")).eval()
with torch.no_grad():
    print(tuple(model(torch.zeros(1, 1, 33, 40)).logits.shape))
for module in list(sys.modules.values()):
    if module.__name__.split(".")[0] == "scalpel_hf":
        print(module.__file__)
"""
    shape, *files = fresh(site, code).splitlines()
    assert shape == "(1, 2, 33, 40)"
    assert len(files) > 10 and all(Path(f).is_relative_to(site) for f in files)


def test_a_failed_import_can_be_tried_again(site: Path) -> None:
    code = """
import scalpel_hf, pathlib
broken = pathlib.Path("broken"); (broken / "peft").mkdir(parents=True, exist_ok=True)
(broken / "peft" / "__init__.py").write_text("raise ImportError('half installed')")
sys.path.insert(0, str(broken))
try:
    import peft
except ImportError as error:
    assert str(error) == "half installed", error
sys.path.remove(str(broken)); sys.path_importer_cache.clear()
import peft
assert "SCALPEL_MOE" in peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING
"""
    fresh(site, code)


def test_tools_that_ask_for_code_and_source_get_it(site: Path) -> None:
    code = """
import scalpel_hf, importlib.util, runpy
loader = importlib.util.find_spec("scalpel_hf.version").loader
assert "__version__" in loader.get_source("scalpel_hf.version")
assert runpy.run_module("scalpel_hf.version")["__version__"] == scalpel_hf.__version__
"""
    fresh(site, code)


CHAIN = """
import sys
from pathlib import Path
from scalpel_hf.cli.main import main
import scalpel_hf.recipes.distill as recipe

assert Path(recipe.__file__).is_relative_to(sys.prefix), recipe.__file__
for line in Path("commands.txt").read_text().splitlines():
    sys.argv = ["scalpel-hf", *line.split()]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""
COMMANDS = """
env
prepare --synthetic 8 --budget 0.5 --out data
distill --config nuaa_sirst/distill_10pct --dataset data --base-model sam --image-size 64 --channels 8\
 --output-dir teacher --max-steps 60 --batch-size 4 --crop-size 32 --learning-rate 1e-2 --committee 1
label --dataset data --teacher teacher --no-calibration --threshold 0.000001 --out pseudo
transfer --config nuaa_sirst/transfer_10pct --dataset data --pseudo_labels pseudo --output_dir student --size nano\
 --max-steps 2 --batch-size 2 --crop-size 32
export student --dataset data
""".replace("\\\n", "").strip()  # a teacher of fewer steps finds nothing


def test_the_installed_command_does_the_whole_job(environment: Path, tmp_path: Path) -> None:
    """From an empty folder outside of any checkout, with nothing but what `--help` says."""
    work = tmp_path / "work"
    (work / "frames").mkdir(parents=True)
    small_mobile_sam().save_pretrained(work / "sam")
    (work / "commands.txt").write_text(COMMANDS)
    for index in range(2):
        Image.fromarray(SyntheticInfrared(size=(40, 56)).frame(index)["image"]).save(work / "frames" / f"{index}.png")
    plain = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def installed(program: str, *arguments: str) -> str:
        command = [str(environment / "bin" / program), *arguments]
        done = subprocess.run(command, cwd=work, env=plain, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        return done.stdout

    assert "scalpel-hf: " in installed("python", "-c", CHAIN)
    lines = installed("scalpel-hf", "predict", "student", "frames").splitlines()
    assert [json.loads(line)["frame"] for line in lines] == ["0.png", "1.png"]
    assert json.loads((work / "student" / "metrics.json").read_text())["command"].startswith("scalpel-hf transfer ")
