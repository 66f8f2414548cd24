"""`scalpel-hf review`; tests/app has its page."""

import os
from pathlib import Path

import pytest

from scalpel_hf.cli import review


@pytest.mark.skipif(os.name != "posix", reason="users have entries")
def test_a_user_without_a_name_is_asked_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654)
    with pytest.raises(ValueError, match="--reviewer NAME"):
        review.main([str(tmp_path), "--no-browser"])
    with pytest.raises(ValueError, match="holds no pseudo labels"):
        review.main([str(tmp_path), "--no-browser", "--reviewer", "ada"])
