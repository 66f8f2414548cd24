"""`scalpel-hf app`; tests/app has its page."""

import sys
from pathlib import Path

import pytest

from scalpel_hf.cli import app


def test_without_gradio_the_remedy_is_said_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install \"scalpel-hf\[app\]\""):
        app.main(["nowhere"])


@pytest.mark.parametrize("flags", [["--threshold", "1"], ["--port", "70000"], ["--threshold", "nan"]])
def test_wrong_flags_are_refused(flags: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        app.main(["nowhere", *flags])
    assert "must be a" in capsys.readouterr().err


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    with pytest.raises(ValueError, match=r"holds no model"):
        app.main([str(tmp_path)])
