import json
from itertools import pairwise

import numpy as np
import pytest
from datasets import Image, load_from_disk
from hypothesis import given
from hypothesis import strategies as st

from scalpel_hf.data import LabelBudget, SyntheticInfrared, apply_label_budget

names_of_frames = st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=60, unique=True)
fractions = st.floats(0, 1, exclude_min=True)


@given(names_of_frames, st.lists(fractions, min_size=2, max_size=4), st.integers(-5, 5))
def test_budgets_of_one_seed_are_nested(names, some, seed):
    drawn = [set(LabelBudget.draw(names, fraction, seed).names) for fraction in sorted(some)]
    for small, large in pairwise(drawn):
        assert small <= large
    assert drawn[0]
    assert drawn[-1] <= set(names)
    assert set(LabelBudget.draw(names, 1, seed).names) == set(names)


@given(names_of_frames, fractions, st.randoms())
def test_the_draw_does_not_depend_on_the_order(names, fraction, random):
    shuffled = random.sample(names, len(names))
    assert LabelBudget.draw(shuffled, fraction, 3) == LabelBudget.draw(names, fraction, 3)


def test_sizes_seeds_and_a_draw_that_must_never_change():
    names = [f"Misc_{i}" for i in range(341)]
    sizes = [len(LabelBudget.draw(names, fraction, 0).names) for fraction in (0.001, 0.01, 0.05, 0.1, 0.2, 1)]
    assert sizes == [1, 3, 17, 34, 68, 341]
    assert LabelBudget.draw(names, 0.1, 0).names != LabelBudget.draw(names, 0.1, 1).names
    assert LabelBudget.draw(names, 0.01, 0) == LabelBudget(("Misc_31", "Misc_313", "Misc_86"), 0.01, 0, 341)


def test_every_name_is_as_likely_as_any_other():
    names = [f"{i:06d}" for i in range(20)]
    times = np.zeros(20)
    for seed in range(400):
        for name in LabelBudget.draw(names, 0.25, seed).names:
            times[int(name)] += 1
    # each is drawn with probability 1/4: 100 ± 8.7 times of 400
    assert abs(times - 100).max() < 4 * 8.7


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, 10, float("nan")])
def test_wrong_fractions(fraction):
    with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\]"):
        LabelBudget.draw(["a", "b"], fraction)


@pytest.mark.parametrize("names", [[], ["a", "b", "a"]])
def test_names_must_be_there_and_unique(names):
    with pytest.raises(ValueError, match="each once"):
        LabelBudget.draw(names, 0.5)


@pytest.fixture(scope="module")
def frames():
    return SyntheticInfrared(size=(48, 40), n_targets=(1, 2), extent=(1, 5), seed=2).to_dataset(20)


def by_name(dataset):
    return {row["name"]: row for row in dataset}


def test_hidden_masks_are_gone(frames, tmp_path):
    limited = apply_label_budget(frames, 0.2, seed=1)
    assert limited.column_names == [*frames.column_names, "label_source"]
    assert {name: limited.features[name] for name in frames.features} == frames.features
    assert limited["name"][:] == frames["name"][:]
    chosen = set(LabelBudget.draw(frames["name"], 0.2, 1).names)
    full = by_name(frames)
    for name, row in by_name(limited).items():
        assert np.array_equal(np.asarray(row["image"]), np.asarray(full[name]["image"]))
        if name in chosen:
            assert row["label_source"] == "human"
            assert row["objects"] == full[name]["objects"]
            assert np.array_equal(np.asarray(row["mask"]), np.asarray(full[name]["mask"]))
        else:
            assert (row["label_source"], row["mask"], row["objects"]) == ("none", None, None)
    assert limited["label_source"][:].count("human") == 4

    limited.save_to_disk(tmp_path / "saved")
    stored = b"".join(path.read_bytes() for path in (tmp_path / "saved").rglob("*") if path.is_file())
    for row in frames.cast_column("mask", Image(decode=False)).cast_column("image", Image(decode=False)):
        assert row["image"]["bytes"] in stored
        assert (row["mask"]["bytes"] in stored) == (row["name"] in chosen)
    limited.to_parquet(tmp_path / "data.parquet")
    for again in (load_from_disk(tmp_path / "saved"), type(limited).from_parquet(str(tmp_path / "data.parquet"))):
        assert again.features == limited.features
        assert again["objects"][:] == limited["objects"][:]
        assert [mask is None for mask in again["mask"]] == [mask is None for mask in limited["mask"]]


def test_masks_can_stay(frames):
    marked = apply_label_budget(frames, 0.2, seed=1, hide=False)
    assert marked["label_source"][:] == apply_label_budget(frames, 0.2, seed=1)["label_source"][:]
    assert marked["objects"][:] == frames["objects"][:]


def test_the_budget_follows_names_not_rows(frames):
    shuffled = frames.shuffle(seed=5)
    one, other = by_name(apply_label_budget(frames, 0.3)), by_name(apply_label_budget(shuffled, 0.3))
    assert {name: row["label_source"] for name, row in one.items()} == {
        name: row["label_source"] for name, row in other.items()
    }
    for name, row in other.items():  # rows stay together
        assert row["objects"] == one[name]["objects"]
        assert np.array_equal(np.asarray(row["image"]), np.asarray(one[name]["image"]))


def test_a_saved_budget_gives_the_same_data_set(frames, tmp_path):
    budget = LabelBudget.draw(frames["name"], 0.2, seed=1)
    budget.save(tmp_path / "budget.json")
    assert [path.name for path in tmp_path.iterdir()] == ["budget.json"]
    loaded = LabelBudget.load(tmp_path / "budget.json")
    assert loaded == budget
    applied = apply_label_budget(frames, budget=loaded)
    assert applied["label_source"][:] == apply_label_budget(frames, 0.2, seed=1)["label_source"][:]
    with pytest.raises(ValueError, match=r"lacks 4 names of the budget: synthetic-0000"):
        apply_label_budget(frames.filter(lambda name: name not in budget.names, input_columns="name"), budget=loaded)


def test_a_budget_over_a_budget(frames):
    tenth = apply_label_budget(frames, 0.1)
    smaller = apply_label_budget(tenth, 0.05)
    assert smaller["label_source"][:] == apply_label_budget(frames, 0.05)["label_source"][:]
    assert smaller.column_names == tenth.column_names
    with pytest.raises(
        ValueError, match=r"frames of the budget have no label: synthetic-0000.*load the full set again"
    ):
        apply_label_budget(tenth, 0.5)


def test_either_fraction_or_budget(frames):
    with pytest.raises(ValueError, match="either"):
        apply_label_budget(frames)
    with pytest.raises(ValueError, match="either"):
        apply_label_budget(frames, 0.1, budget=LabelBudget.draw(frames["name"], 0.1))


RIGHT = {"names": ["a", "b"], "fraction": 1, "seed": 0, "total": 3}
WRONG = (
    {"names": "abc"},
    {"names": ["a", 1]},
    {"fraction": 1.5},
    {"fraction": float("nan")},
    {"seed": 2**70},
    {"seed": True},
    {"total": 1},
    {"total": 10**30},
)


@pytest.mark.parametrize("content", ["{", "[]", "{}", *(json.dumps({**RIGHT, **wrong}) for wrong in WRONG)])
def test_a_file_that_is_no_budget(content, tmp_path):
    path = tmp_path / "budget.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"budget\.json isn't a label budget"):
        LabelBudget.load(path)
