import os
from pathlib import Path

import pytest

DEFAULT_SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with `data/` and `weights/`: real infrared frames and real SAM weights, read in place."""
    folder = Path(os.environ.get("SCALPEL_SHARED", DEFAULT_SHARED))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data and weights are not at {folder} (set SCALPEL_SHARED to where they are)")
    return folder
