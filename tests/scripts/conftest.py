from collections.abc import Callable
from pathlib import Path

import datasets
import pytest


@pytest.fixture(scope="module")
def saved_rows(tmp_path_factory: pytest.TempPathFactory, rows: datasets.Dataset) -> str:
    """The module's `rows` as both splits of a data set."""
    folder = tmp_path_factory.mktemp("saved") / "data"
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(folder))
    return str(folder)


@pytest.fixture
def with_configurations(tmp_path: Path) -> Callable[..., list[Path]]:
    """Makes folders of these names that look like models, of either kind in turn."""

    def make(*names: str) -> list[Path]:
        for index, name in enumerate(names):
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / ("adapter_config.json" if index % 2 else "config.json")).write_text("{}")
        return [tmp_path / name for name in names]

    return make
