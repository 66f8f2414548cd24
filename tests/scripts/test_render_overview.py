"""The README's picture, from a labelled data set and a student as a demo leaves them."""

from pathlib import Path

import datasets
import pytest
from PIL import Image

from scalpel_hf import SyntheticInfrared
from scripts.render_overview import main
from tests.small_students import small_student


def demo(folder: Path, sources: list[str]) -> Path:
    rows = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(3, 5), seed=3).to_dataset(len(sources))
    objects = [{"bbox": [[1.0, 1.0, 2.0, 2.0]] * 2, "area": [4, 4], "score": [0.9, 0.8]}] * len(sources)
    rows = rows.add_column("label_source", sources).add_column("pseudo_objects", objects)
    rows = rows.map(
        lambda row: {"pseudo_mask": row["mask"]},
        features=datasets.Features(rows.features | {"pseudo_mask": datasets.Image()}),
    )
    datasets.DatasetDict(train=rows).save_to_disk(str(folder / "pseudo"))
    small_student().save_pretrained(folder / "student")
    return folder


def test_a_demo_gives_a_picture(tmp_path: Path) -> None:
    folder = demo(tmp_path / "demo", ["human", "pseudo"])
    main(["--run", str(folder), "--out", str(tmp_path / "overview.png")])
    with Image.open(tmp_path / "overview.png") as picture:
        assert picture.format == "PNG" and picture.width > 4 * 288


def test_a_frame_without_a_pseudo_label_is_an_error(tmp_path: Path) -> None:
    folder = demo(tmp_path / "demo", ["human", "none"])
    with pytest.raises(ValueError, match="--frame"):
        main(["--run", str(folder), "--out", str(tmp_path / "overview.png")])
    with pytest.raises(ValueError, match="no label"):
        main(["--run", str(folder), "--frame", "0", "--out", str(tmp_path / "overview.png")])
    assert not (tmp_path / "overview.png").exists()
