"""Labelled frames held out to choose a training's best step, and folds: by recording, whatever the rows' order."""

import numpy as np
import pytest
from datasets import Dataset

from scalpel_hf.data.splits import folds_by_recording, split_by_recording, train_val_split, without_recordings_held_out


def rows_of(recordings: str) -> Dataset:
    """A frame a letter, of the recording of that letter; `-` is of none."""
    columns = {"name": [f"f{i:02d}" for i in range(len(recordings))], "label_source": ["human"] * len(recordings)}
    return Dataset.from_dict(columns | {"recording": [letter.strip("-") for letter in recordings]})


def held_out(rows: Dataset, fraction: float, seed: int = 0) -> set[str]:
    train, held = train_val_split(rows, fraction, seed)
    assert sorted(train["name"][:] + held["name"][:]) == sorted(rows["name"])
    return set(held["name"])


def test_whole_recordings_choose_the_best_step() -> None:
    rows = rows_of("aaaabbbbccccdddd")
    train, held = train_val_split(rows, 0.25, seed=0)
    assert len(set(held["recording"])) == 1 and set(train["recording"]).isdisjoint(held["recording"])
    assert [len(held_out(rows, fraction)) for fraction in (0.04, 0.3, 0.45)] == [4, 4, 8], "as near as they come"
    with pytest.raises(ValueError, match=r"0\.25 of 4 frames with a person's mask, of 1 recordings, leaves none"):
        train_val_split(rows_of("aaaa"), 0.25, seed=0)


@pytest.mark.parametrize("seed", range(6))
def test_a_large_recording_does_not_swallow_the_labels(seed: int) -> None:
    rows = rows_of("a" * 40 + "bbbb" + "cccc")
    assert len(held_out(rows, 0.25, seed)) == 8
    splits, _ = split_by_recording(rows, {"validation": 0.1, "test": 0.1}, seed)
    assert {split: len(part) for split, part in splits.items()} == {"train": 40, "validation": 4, "test": 4}
    assert len(split_by_recording(rows.select(range(40, 48)), {"test": 0.1}, seed)[0]["test"]) == 4


def test_the_draw_of_single_frames_is_as_recorded() -> None:
    rows = rows_of("-" * 12)
    assert sorted(held_out(rows, 0.25)) == ["f02", "f07", "f09"]
    splits, _ = split_by_recording(rows, {"validation": 0.2, "test": 0.3}, seed=3)
    assert [sorted(splits[split]["name"]) for split in ("validation", "test")] == [
        ["f03", "f08"],
        ["f04", "f05", "f06", "f09"],
    ]


def test_frames_without_a_target_alone_choose_no_step() -> None:
    rows = rows_of("-" * 4).add_column("objects", [{"bbox": [[0.0, 0.0, 2.0, 2.0]]}] + [{"bbox": []}] * 3)
    message = r"none of the 1 frames held out, of 4 .*, shows a target .*: take another seed or a larger fraction"
    drawn = {seed: held_out(rows.remove_columns("objects"), 0.25, seed) for seed in range(12)}
    with_target = next(seed for seed, names in drawn.items() if names == {"f00"})
    assert held_out(rows, 0.25, with_target) == {"f00"}
    without = next(seed for seed, names in drawn.items() if names != {"f00"})
    with pytest.raises(ValueError, match=message):
        train_val_split(rows, 0.25, without)


def test_no_other_row_of_a_recording_that_is_held_out_is_trained_on() -> None:
    sources = ["human", "box", "pseudo", "none"] * 4
    rows = rows_of("aaaabbbbccccdddd").remove_columns("label_source").add_column("label_source", sources)
    train, held = train_val_split(rows, 0.25, seed=0)
    assert held["label_source"][:] == ["human"] and set(held["recording"]).isdisjoint(train["recording"])
    assert train["label_source"][:3] == ["human"] * 3 and len(train) == 12
    with pytest.raises(ValueError, match=r"of 0 frames with a person's mask leaves none .*; 0 holds out none"):
        train_val_split(rows.filter(lambda source: source == "box", input_columns="label_source"), 0.5, seed=0)


def test_frames_of_no_recording_are_drawn_by_name() -> None:
    rows = rows_of("-" * 20)
    chosen = held_out(rows, 0.2)
    assert len(chosen) == 4 and chosen != held_out(rows, 0.2, seed=1)
    assert held_out(rows.select(range(19, -1, -1)), 0.2) == chosen
    assert held_out(rows.remove_columns("recording"), 0.2) == chosen
    assert held_out(rows, 0) == set()
    with pytest.raises(ValueError, match=r"0\.01 of 20 frames with a person's mask leaves none"):
        train_val_split(rows, 0.01, seed=0)
    with pytest.raises(ValueError, match="below 1, got 1"):
        train_val_split(rows, 1, seed=0)


def test_folds_share_no_recording() -> None:
    rows = rows_of("aaaabbbb--ccdd")
    folds = folds_by_recording(rows, 3, seed=0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(14))
    letters = [set(rows.select(fold)["recording"]) - {""} for fold in folds]
    assert sum(map(len, letters)) == len(set.union(*letters)) == 4
    assert [len(folds_by_recording(rows_of(text), 3, seed=0)) for text in ("aaa", "ab", "")] == [1, 2, 0]


def test_other_rows_of_recordings_that_are_held_out_are_left_out() -> None:
    labelled, others = rows_of("aabb--"), rows_of("abcab-")
    left = without_recordings_held_out(others, labelled, kept=labelled.select([0, 1, 4]))
    assert left["recording"][:] == ["a", "c", "a", ""]
    alone = labelled.remove_columns("recording")
    assert len(without_recordings_held_out(others, alone, kept=alone.select([0]))) == 6
