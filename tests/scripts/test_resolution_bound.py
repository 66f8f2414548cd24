import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from scalpel_hf import SyntheticInfrared
from scripts.benchmarks import resolution_bound as bound


def pixel(row: int, column: int, side: int = 1, shape: tuple[int, int] = (24, 31)) -> torch.Tensor:
    mask = torch.zeros(shape)
    mask[row : row + side, column : column + side] = 1
    return mask


@pytest.mark.parametrize("way", [bound.resampled, bound.fitted], ids=["resampled", "fitted"])
def test_at_full_resolution_nothing_is_lost(way) -> None:  # type: ignore[no-untyped-def]
    mask = (torch.rand(17, 23, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    assert torch.equal(way(mask, 1), mask.bool())


def test_resampled_by_its_definition() -> None:
    mask = pixel(8, 12, side=8)
    grid = mask.numpy()[:24, :28].reshape(6, 4, 7, 4).mean((1, 3))
    grid = np.pad(grid, ((0, 0), (0, 1)))  # the last three columns, padded to four, hold nothing
    full = F.interpolate(torch.from_numpy(grid)[None, None], (24, 32), mode="bilinear", align_corners=False)
    assert torch.equal(bound.resampled(mask, 4), full[0, 0, :24, :31] > 0.5)
    assert bound.resampled(mask, 4)[10:14, 14:18].all()
    for row in range(4):
        assert not bound.resampled(pixel(8 + row, 13), 4).any()  # a sixteenth of a cell


def test_a_fit_finds_what_bilinear_resizing_can_tell() -> None:
    """Between the centres of cells it is linear: a pixel next to a centre can be told from its neighbours, one in the
    middle of three that lie between two centres can't."""
    for row in (9, 10):
        assert torch.equal(bound.fitted(pixel(row, 13), 4), pixel(row, 13).bool())
    between = bound.fitted(pixel(8, 12), 4)
    assert not torch.equal(between, pixel(8, 12).bool())
    assert torch.equal(bound.fitted(pixel(8, 12, side=4), 4), pixel(8, 12, side=4).bool())


def test_the_command_prints_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(6, 9), seed=3).to_dataset(2)
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "data"))
    hidden = datasets.Dataset.from_dict(
        {**{c: rows[c][:] for c in ("name", "image")}, "mask": [None, None], "label_source": ["none"] * 2},
        features=datasets.Features(
            {**rows.select_columns(["name", "image", "mask"]).features, "label_source": datasets.Value("string")}
        ),
    )
    datasets.DatasetDict({"test": hidden}).save_to_disk(str(tmp_path / "hidden"))
    monkeypatch.setattr(sys, "argv", ["bound", "--strides", "1", "--dataset", str(tmp_path / "data")])
    bound.main()
    assert "| 1 | resampled | 100.0 | 100.0 | 100.0 | 0.0 |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["bound", "--strides", "1", "--dataset", str(tmp_path / "hidden")])
    with pytest.raises(ValueError, match=r"the mask of .* is hidden: choose a split with all masks"):
        bound.main()
