import argparse
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from scalpel_hf import SyntheticInfrared, add_pseudo_labels, apply_label_budget, training_mask
from scalpel_hf.evaluation import evaluate_probabilities, evaluate_pseudo_labels
from scalpel_hf.pseudo_labels import PSEUDO_FEATURES, label_in_shards, summarize

ROOT = Path(__file__).parents[1]


class FakeTeacher:
    """The frame's brightness as probability; counts what it is asked."""

    def __init__(self, gain: float = 1.0, die_at: int | None = None):
        self.gain, self.die_at, self.calls = gain, die_at, 0

    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        frame = frame.astype(np.float32)
        return self.gain * (frame - frame.min()) / (frame.max() - frame.min())

    def fingerprint(self) -> str:
        return f"fake-{self.gain}"


def budgeted(n: int = 10) -> datasets.Dataset:
    camera = SyntheticInfrared(size=(32, 40), n_targets=(0, 2), extent=(1, 4), seed=3)
    return apply_label_budget(camera.to_dataset(n), 0.3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    folder = str(tmp_path_factory.mktemp("data") / "train")
    budgeted().save_to_disk(folder)
    return datasets.load_from_disk(folder)


def raw(dataset: datasets.Dataset, column: str) -> list:
    return dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()


def with_image(dataset: datasets.Dataset, index: int, content: bytes) -> datasets.Dataset:
    cells = raw(dataset, "image")
    cells[index] = {"bytes": content, "path": None}
    return dataset.remove_columns("image").add_column("image", cells, feature=datasets.Image())


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_columns_rows_and_provenance(dataset: datasets.Dataset) -> None:
    teacher = FakeTeacher()
    labelled = add_pseudo_labels(dataset, teacher, 0.7, "org/teacher", batch_size=3)
    assert teacher.calls == 7
    assert labelled.features == datasets.Features({**dataset.features, **PSEUDO_FEATURES})
    for column in ("name", "image", "mask", "objects", "width", "height"):
        assert raw(labelled, column) == raw(dataset, column)
    for before, row in zip(dataset, labelled, strict=True):
        if before["label_source"] == "human":
            assert row["label_source"] == "human" and all(row[c] is None for c in PSEUDO_FEATURES)
            continue
        assert row["label_source"] == "pseudo" and row["mask"] is None
        probability = FakeTeacher().probabilities(np.asarray(row["image"]))
        mask = np.asarray(row["pseudo_mask"])
        np.testing.assert_array_equal(mask, np.where(probability > 0.7, 255, 0))
        np.testing.assert_array_equal(np.asarray(row["pseudo_confidence"]), np.rint(probability * 255))
        objects = row["pseudo_objects"]
        assert sum(objects["area"]) == (mask > 0).sum() and len(objects["bbox"]) == len(objects["score"])
        for (x, y, w, h), score in zip(objects["bbox"], objects["score"], strict=True):
            assert mask[int(y) : int(y + h), int(x) : int(x + w)].any() and 0.7 < score <= 1
        assert row["pseudo_score"] == pytest.approx(max(objects["score"]))
        assert json.loads(row["teacher"]) == {"name": "org/teacher", "fingerprint": "fake-1.0", "threshold": 0.7}


def test_scores_belong_to_their_objects() -> None:
    frame = np.zeros((32, 40), np.uint8)
    frame[4:6, 30:33], frame[20:22, 5:8] = 200, 255  # the first found isn't the best
    rows = with_image(budgeted(4), 0, png(frame))
    sources = ["none"] * len(rows)
    rows = rows.remove_columns("label_source").add_column("label_source", sources)
    objects = add_pseudo_labels(rows, FakeTeacher())[0]["pseudo_objects"]
    assert objects["bbox"] == [[30, 4, 3, 2], [5, 20, 3, 2]] and objects["area"] == [6, 6]
    assert objects["score"] == pytest.approx([200 / 255, 1.0])


def test_the_fingerprint_is_that_of_the_settings(dataset: datasets.Dataset) -> None:
    prints = [
        add_pseudo_labels(dataset, FakeTeacher(gain), threshold, name, keep_in_memory=True)._fingerprint
        for gain, threshold, name in ((1, 0.5, ""), (1, 0.5, ""), (0.9, 0.5, ""), (1, 0.6, ""), (1, 0.5, "x"))
    ]
    assert prints[0] == prints[1] and len(set(prints)) == 4


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 1.5])
def test_wrong_thresholds(dataset: datasets.Dataset, threshold: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        add_pseudo_labels(dataset, FakeTeacher(), threshold)


def test_a_missing_column_is_named(dataset: datasets.Dataset) -> None:
    with pytest.raises(ValueError, match=r"lacks the columns \['label_source'\]: apply a label budget"):
        add_pseudo_labels(dataset.remove_columns("label_source"), FakeTeacher())


@pytest.mark.parametrize(
    ("gain", "match"), [(float("nan"), "values that are no probabilities"), (3.0, "values that are no probabilities")]
)
def test_answers_that_are_no_probabilities_name_the_row(dataset: datasets.Dataset, gain: float, match: str) -> None:
    first = next(row["name"] for row in dataset if row["label_source"] == "none")
    with pytest.raises(ValueError, match=rf"{first}.* {match}"):
        add_pseudo_labels(dataset, FakeTeacher(gain))


def test_an_answer_of_another_size_names_the_row(dataset: datasets.Dataset) -> None:
    class Small(FakeTeacher):
        def probabilities(self, frame: np.ndarray) -> np.ndarray:
            return super().probabilities(frame)[::2]

    with pytest.raises(ValueError, match=r"synthetic-\d+ is \(16, 40\), the frame \(32, 40\)"):
        add_pseudo_labels(dataset, Small())


def test_an_unreadable_image_names_the_row_unless_a_human_labelled_it(dataset: datasets.Dataset) -> None:
    sources = dataset["label_source"][:]
    index = sources.index("none", 4)
    broken = with_image(dataset, index, raw(dataset, "image")[index]["bytes"][:60])
    with pytest.raises(ValueError, match=rf"can't label {dataset[index]['name']}: .*truncated"):
        add_pseudo_labels(broken, FakeTeacher())
    human = sources.index("human")
    add_pseudo_labels(with_image(dataset, human, b"not an image"), FakeTeacher())


def test_sixteen_bit_frames_reach_the_teacher_whole() -> None:
    frame = np.full((32, 40), 14000, np.uint16)
    frame[5, 5] = 15000
    rows = with_image(budgeted(1).map(lambda _: {"label_source": "none"}), 0, png(frame))
    row = add_pseudo_labels(rows, FakeTeacher())[0]
    assert row["pseudo_objects"]["bbox"] == [[5, 5, 1, 1]]


def test_shards(dataset: datasets.Dataset, tmp_path: Path) -> None:
    whole = add_pseudo_labels(dataset, FakeTeacher(), name="t")
    out, lines, teacher = tmp_path / "out", [], FakeTeacher()
    labelled = label_in_shards(dataset, teacher, out, name="t", shard_size=3, report=lines.append)
    assert teacher.calls == 7 and len(lines) == 4 and "shard 4/4" in lines[-1] and "0 s to go" in lines[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert labelled.features == whole.features and raw_equal(labelled, whole)
    before = sorted(Path(dataset.cache_files[0]["filename"]).parent.iterdir())
    label_in_shards(dataset, FakeTeacher(0.9), tmp_path / "other", shard_size=3, report=lines.append)
    assert sorted(Path(dataset.cache_files[0]["filename"]).parent.iterdir()) == before  # no copies beside the data


def raw_equal(a: datasets.Dataset, b: datasets.Dataset) -> bool:
    return a.column_names == b.column_names and all(raw(a, c) == raw(b, c) for c in a.column_names)


def test_killed_and_resumed_equals_unbroken(dataset: datasets.Dataset, tmp_path: Path) -> None:
    folder = Path(dataset.cache_files[0]["filename"]).parent
    out = tmp_path / "out"
    command = [sys.executable, "-m", "tests.test_pseudo_labels", str(folder), str(out), "--die-at", "5"]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    key = next((tmp_path / "out.partial").iterdir())
    finished = [int(p.name) for p in key.iterdir() if p.suffix == ""]
    assert 0 < len(finished) < 5
    done = sum(1 for i in finished for j in (2 * i, 2 * i + 1) if dataset[j]["label_source"] == "none")

    teacher = FakeTeacher()
    labelled = label_in_shards(dataset, teacher, out, shard_size=2, report=lambda _: None)
    assert teacher.calls == 7 - done
    unbroken = label_in_shards(dataset, FakeTeacher(), tmp_path / "b", shard_size=2, report=lambda _: None)
    assert raw_equal(labelled, unbroken)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "out"]


def test_a_finished_folder_is_not_made_again(dataset: datasets.Dataset, tmp_path: Path) -> None:
    out, lines = tmp_path / "out", []
    first = label_in_shards(dataset, FakeTeacher(), out, shard_size=4, report=lines.append)
    teacher = FakeTeacher()
    again = label_in_shards(dataset, teacher, out, shard_size=4, report=lines.append)
    assert teacher.calls == 0 and raw_equal(first, again) and "already" in lines[-1]
    other = label_in_shards(dataset, teacher, out, threshold=0.9, shard_size=4, report=lines.append)
    assert teacher.calls == 7 and not raw_equal(first, other)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_a_folder_of_something_else_is_left_alone(dataset: datasets.Dataset, tmp_path: Path) -> None:
    for name in ("thesis", "prepared"):
        (tmp_path / name).mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("all I have")
    dataset.save_to_disk(str(tmp_path / "prepared"))
    for name in ("thesis", "prepared"):
        before, teacher = sorted((tmp_path / name).iterdir()), FakeTeacher()
        with pytest.raises(ValueError, match="holds no pseudo labels: choose another"):
            label_in_shards(dataset, teacher, tmp_path / name)
        assert sorted((tmp_path / name).iterdir()) == before and teacher.calls == 0


def test_shards_of_other_settings_are_not_used(dataset: datasets.Dataset, tmp_path: Path) -> None:
    class Stops(FakeTeacher):
        def probabilities(self, frame: np.ndarray) -> np.ndarray:
            if self.calls == 5:
                raise RuntimeError("stopped")
            return super().probabilities(frame)

    with pytest.raises(RuntimeError, match="stopped"):
        label_in_shards(dataset, Stops(), tmp_path / "out", name="a", shard_size=2, report=lambda _: None)
    teacher = FakeTeacher()
    labelled = label_in_shards(dataset, teacher, tmp_path / "out", name="b", shard_size=2, report=lambda _: None)
    assert teacher.calls == 7
    assert {json.loads(t)["name"] for t in labelled["teacher"] if t} == {"b"}


def test_all_empty_is_an_error_each_time(dataset: datasets.Dataset, tmp_path: Path) -> None:
    teacher = FakeTeacher(0.4)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"all 7 pseudo labels are empty: .* nothing at threshold 0\.5"):
            label_in_shards(dataset, teacher, tmp_path / "out", report=lambda _: None)
    assert teacher.calls == 7 and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="no rows"):
        label_in_shards(dataset.select([]), teacher, tmp_path / "out")


def test_training_mask() -> None:
    mask = np.zeros((2, 3), np.uint8)
    mask[0, 1] = 255
    human = {"name": "a", "label_source": "human", "mask": Image.fromarray(mask)}
    target, weight = training_mask(human)
    np.testing.assert_array_equal(target, mask / 255)
    assert (weight == 1).all() and target.dtype == weight.dtype == np.float32
    confidence = np.array([[0, 255, 51], [128, 102, 204]], np.uint8)
    pseudo = {"label_source": "pseudo", "mask": None, "pseudo_mask": Image.fromarray(mask)}
    target, weight = training_mask({**pseudo, "pseudo_confidence": Image.fromarray(confidence)})
    np.testing.assert_array_equal(target, mask / 255)
    np.testing.assert_allclose(weight, [[1, 1, 0.6], [1 / 255, 0.2, 0.6]], atol=1e-6)
    assert training_mask({"label_source": "none"}) is None
    with pytest.raises(ValueError, match="a: `label_source` is human, but there is no mask"):
        training_mask({**human, "mask": None})


def test_round_trips(dataset: datasets.Dataset, tmp_path: Path) -> None:
    labelled = add_pseudo_labels(dataset, FakeTeacher(), name="t")
    labelled.save_to_disk(str(tmp_path / "disk"))
    labelled.to_parquet(str(tmp_path / "set.parquet"))
    parquet = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "set.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    for again in (datasets.load_from_disk(str(tmp_path / "disk")), parquet):
        assert again.features == labelled.features
        for a, b in zip(labelled, again, strict=True):
            for x, y in zip(training_mask(a), training_mask(b), strict=True):
                np.testing.assert_array_equal(x, y)
            assert a["pseudo_objects"] == b["pseudo_objects"] and a["teacher"] == b["teacher"]


def test_summary_and_quality(dataset: datasets.Dataset) -> None:
    labelled = add_pseudo_labels(dataset, FakeTeacher(), 0.8)
    summary = summarize(labelled)
    counts = [len(o["area"]) for o in labelled["pseudo_objects"] if o is not None]
    assert (summary["human"], summary["pseudo"], summary["none"]) == (3, 7, 0)
    assert [summary[k] for k in ("empty", "one", "many")] == [
        counts.count(0),
        counts.count(1),
        sum(c > 1 for c in counts),
    ]
    assert summary["area_quartiles"][0] >= 1

    truth = SyntheticInfrared(size=(32, 40), n_targets=(0, 2), extent=(1, 4), seed=3).to_dataset(10)
    quality = evaluate_pseudo_labels(labelled, truth)
    rows = truth.select([i for i, s in enumerate(dataset["label_source"]) if s == "none"])
    direct = evaluate_probabilities(lambda f: FakeTeacher().probabilities(np.asarray(f)), rows, threshold=0.8)
    assert quality["n_images"] == 7 and {k: v for k, v in quality.items() if k != "threshold"} == {
        k: v for k, v in direct.items() if k != "threshold"
    }
    with pytest.raises(ValueError, match="has no mask of synthetic-"):
        evaluate_pseudo_labels(labelled, dataset)
    with pytest.raises(ValueError, match="has no mask of synthetic-"):
        evaluate_pseudo_labels(labelled, truth.select([0]))
    with pytest.raises(ValueError, match=r"synthetic-.* has no mask to measure against"):
        evaluate_probabilities(lambda f: FakeTeacher().probabilities(np.asarray(f)), dataset)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("out")
    parser.add_argument("--die-at", type=int)
    args: Any = parser.parse_args()
    teacher = FakeTeacher(die_at=args.die_at)
    label_in_shards(datasets.load_from_disk(args.dataset), teacher, args.out, shard_size=2)


if __name__ == "__main__":
    main()
