"""What is said where an optional part of the package is missing."""

from importlib import metadata
from pathlib import Path

import pytest

from scalpel_hf.cli import run
from scalpel_hf.utils.error_lines import one_line
from scalpel_hf.utils.extras import check_extra, extra_of, extras, missing

REQUIREMENTS = [
    "torch>=2.6",
    'gradio<7,>=6.31; extra == "app"',
    'onnx>=1.17; extra == "onnx"',
    'onnxruntime>=1.20; extra == "onnx"',
    "av>=14; python_version >= '3.10' and extra == 'video'",
    'mkdocs-material>=9.6; extra == "docs"',
    'mkdocstrings[python]>=0.29; extra == "docs"',
    'av>=14; extra == "dev"',
]


@pytest.fixture(autouse=True)
def requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIREMENTS)


@pytest.fixture
def nothing_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    optional = {name for names in extras().values() for name in names}
    version = metadata.version

    def of_what_is_needed(name: str) -> str:
        if name in optional:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", of_what_is_needed)


def test_extras_are_those_of_the_package_for_its_users() -> None:
    assert extras() == {"app": ["gradio"], "onnx": ["onnx", "onnxruntime"], "video": ["av"]}
    assert (extra_of("onnxruntime.capi"), extra_of("torch"), extra_of(None)) == ("onnx", None, None)


def test_a_missing_module_says_what_to_install() -> None:
    error = ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")
    assert one_line(error) == "No module named 'onnxruntime': pip install \"scalpel-hf[onnx]\""
    assert one_line(ModuleNotFoundError("No module named 'peft'", name="peft")) == "No module named 'peft'"


def test_where_the_package_is_not_installed_nothing_is_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", none)
    assert extras() == missing() == {} and extra_of("av") is None
    check_extra("onnx", "this")


@pytest.mark.usefixtures("nothing_optional")
def test_a_job_says_what_it_lacks_before_it_begins(tmp_path: Path) -> None:
    assert missing() == extras()
    with pytest.raises(ImportError, match=r"needs onnx, onnxruntime: pip install \"scalpel-hf\[onnx\]\""):
        run.main([str(tmp_path), "--labels", "boxes.json", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
