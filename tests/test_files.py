import os
from pathlib import Path

import pytest

from scalpel_hf.files import check_can_be_made


def test_what_can_be_made_is_not_made_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a/b/c", ".", tmp_path, tmp_path / "new"):
        check_can_be_made(path, "--out")
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "a" / "b"):
        with pytest.raises(ValueError, match=rf"written to {path}, as {file} is a file: choose another `--out`"):
            check_can_be_made(path, "--out")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(ValueError, match=rf"as {tmp_path} is not yours to write to: choose another `--out`"):
        check_can_be_made(tmp_path / "a" / "b", "--out")
