import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed from a wheel, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("scalpel_hf", "modeling"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wheel = next(folder.glob("*.whl"))
    install = [*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def fresh(site: Path, code: str) -> str:
    """Run code in a new interpreter elsewhere, which finds the wheel's package before any other."""
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], cwd=site.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_every_module_and_nothing_else(site: Path) -> None:
    with zipfile.ZipFile(next(site.parent.glob("*.whl"))) as wheel:
        names = {n for n in wheel.namelist() if ".dist-info/" not in n}
        metadata = [n for n in wheel.namelist() if ".dist-info/" in n]
    expected = {f.relative_to(ROOT).as_posix() for f in (ROOT / "scalpel_hf").rglob("*.py")}
    expected |= {f"scalpel_hf/modeling/{f.name}" for f in (ROOT / "modeling").glob("*.py")}
    assert {n for n in names if n.endswith(".py")} == expected
    assert {"scalpel_hf/py.typed", "scalpel_hf/modeling/py.typed"} <= names
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
