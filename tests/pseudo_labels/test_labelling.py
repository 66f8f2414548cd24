from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from scalpel_hf import add_pseudo_labels, apply_label_budget, training_mask
from scalpel_hf.evaluation.evaluator import evaluate_probabilities, evaluate_pseudo_labels
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.predictors.prediction import Prediction
from scalpel_hf.pseudo_labels import PSEUDO_FEATURES, Calibration, Rules, summarize
from scalpel_hf.version import __version__
from tests.pseudo_labels.helpers import (
    FakeTeacher,
    budgeted,
    camera,
    frames_dataset,
    on_disk,
    raw,
    raw_equal,
    with_image,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    return on_disk(budgeted(), tmp_path_factory.mktemp("data") / "train")


def test_columns_rows_and_provenance(dataset: datasets.Dataset) -> None:
    teacher = FakeTeacher()
    labelled = add_pseudo_labels(dataset, teacher, 0.7, "org/teacher", revision="abc", batch_size=3)
    assert teacher.calls == 7
    assert labelled.features == datasets.Features({**dataset.features, **PSEUDO_FEATURES})
    for column in ("name", "image", "mask", "objects", "width", "height"):
        assert raw(labelled, column) == raw(dataset, column)
    for before, row in zip(dataset, labelled, strict=True):
        if before["label_source"] == "human":
            assert row["label_source"] == "human" and all(row[c] is None for c in PSEUDO_FEATURES)
            continue
        assert row["label_source"] == "pseudo" and row["mask"] is None
        confidence = np.rint(FakeTeacher().probabilities(np.asarray(row["image"])) * 255)
        mask = np.asarray(row["pseudo_mask"])
        np.testing.assert_array_equal(np.asarray(row["pseudo_confidence"]), confidence)
        np.testing.assert_array_equal(mask, np.where(confidence > 0.7 * 255, 255, 0))
        objects = row["pseudo_objects"]
        assert sum(objects["area"]) == (mask > 0).sum() and len(objects["bbox"]) == len(objects["score"])
        for (x, y, w, h), score in zip(objects["bbox"], objects["score"], strict=True):
            assert mask[int(y) : int(y + h), int(x) : int(x + w)].any() and 0.7 < score <= 1
        assert row["pseudo_score"] == pytest.approx(max(objects["score"]))
        provenance = {"repo": "org/teacher", "revision": "abc", "fingerprint": "fake-1.0", "threshold": 0.7}
        assert row["teacher"] == {**provenance, "version": __version__}


def test_scores_belong_to_their_objects() -> None:
    frame = np.zeros((32, 40), np.uint8)
    frame[4:6, 30:33], frame[20:22, 5:8] = 200, 255  # the first found isn't the best
    objects = add_pseudo_labels(frames_dataset([frame]), FakeTeacher())[0]["pseudo_objects"]
    assert objects["bbox"] == [[30, 4, 3, 2], [5, 20, 3, 2]] and objects["area"] == [6, 6]
    assert objects["score"] == pytest.approx([200 / 255, 1.0])


def test_the_fingerprint_is_that_of_the_settings(dataset: datasets.Dataset) -> None:
    def fingerprint(gain: float = 1, threshold: float = 0.5, name: str = "", **kwargs: object) -> str:
        return add_pseudo_labels(
            dataset, FakeTeacher(gain), threshold, name, keep_in_memory=True, **kwargs
        )._fingerprint

    others = [
        fingerprint(0.9),
        fingerprint(threshold=0.6),
        fingerprint(name="x"),
        fingerprint(revision="r"),
        fingerprint(rules=Rules(min_area=2)),
        fingerprint(calibration=Calibration(offset=-1.0)),
    ]
    assert fingerprint() == fingerprint() and len({fingerprint(), *others}) == 7


def test_one_answer_for_several_frames_at_a_time(dataset: datasets.Dataset) -> None:
    class Batches(FakeTeacher):
        sizes: list[int] = []  # noqa: RUF012

        def predict(self, frames: list[np.ndarray]) -> list[Prediction]:
            self.sizes.append(len(frames))
            return [Prediction(self.probabilities(frame)) for frame in frames]

    batched = add_pseudo_labels(dataset, Batches(), batch_size=4)
    assert sum(Batches.sizes) == 7 and max(Batches.sizes) > 1
    assert raw_equal(batched, add_pseudo_labels(dataset, FakeTeacher(), batch_size=1))


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 1.5])
def test_wrong_thresholds(dataset: datasets.Dataset, threshold: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        add_pseudo_labels(dataset, FakeTeacher(), threshold)


def test_a_threshold_is_given_once(dataset: datasets.Dataset) -> None:
    with pytest.raises(ValueError, match=r"`threshold` is 0\.7, but that of `rules` is 0\.5"):
        add_pseudo_labels(dataset, FakeTeacher(), 0.7, rules=Rules())
    for given in ({"rules": Rules(0.7)}, {"threshold": 0.7}, {"threshold": 0.7, "rules": Rules(0.7)}):
        labelled = add_pseudo_labels(dataset, FakeTeacher(), keep_in_memory=True, **given)
        assert {row["threshold"] for row in labelled["teacher"] if row} == {0.7}


@pytest.mark.parametrize("form", [{"type": "numpy"}, {"type": "pandas"}, {"type": "numpy", "columns": ["name"]}])
def test_the_format_of_a_data_set_changes_no_label_and_stays(dataset: datasets.Dataset, form: dict) -> None:
    plain = add_pseudo_labels(dataset, FakeTeacher(), keep_in_memory=True)
    shown = add_pseudo_labels(dataset.with_format(**form), FakeTeacher(), keep_in_memory=True)
    assert shown.format["type"] == form["type"] and shown.format["columns"] == form.get("columns", plain.column_names)
    assert shown.with_format(None)["label_source"][:] == plain["label_source"][:]


def test_splits_and_streams_are_named(dataset: datasets.Dataset) -> None:
    splits = datasets.DatasetDict({"sea": dataset})
    for call in (lambda rows: add_pseudo_labels(rows, FakeTeacher()), lambda rows: apply_label_budget(rows, 0.5)):
        with pytest.raises(ValueError, match="these are the splits sea: pass one of them"):
            call(splits)
        with pytest.raises(ValueError, match="a stream has no rows to choose from"):
            call(dataset.to_iterable_dataset())


def test_a_missing_column_is_named(dataset: datasets.Dataset) -> None:
    with pytest.raises(ValueError, match=r"lacks the columns \['label_source'\]: apply a label budget"):
        add_pseudo_labels(dataset.remove_columns("label_source"), FakeTeacher())


@pytest.mark.parametrize("gain", [float("nan"), 3.0])
def test_answers_that_are_no_probabilities_name_the_row(dataset: datasets.Dataset, gain: float) -> None:
    first = next(row["name"] for row in dataset if row["label_source"] == "none")
    with pytest.raises(ValueError, match=rf"{first}.* values outside 0 to 1"):
        add_pseudo_labels(dataset, FakeTeacher(gain))


def test_all_empty_is_an_error(dataset: datasets.Dataset) -> None:
    teacher = FakeTeacher(0.4)
    for _ in range(2):  # the second time the labels come from the cache
        with pytest.raises(ValueError, match=r"all 7 pseudo labels are empty: .* accepted by Rules\(threshold=0\.5"):
            add_pseudo_labels(dataset, teacher)
    assert teacher.calls == 7
    human = dataset.filter(lambda s: s == "human", input_columns="label_source", keep_in_memory=True)
    assert len(add_pseudo_labels(human, teacher)) == 3  # nothing was asked, so nothing is missing


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


def test_a_decompression_bomb_names_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = frames_dataset([np.zeros((32, 40), np.uint8), np.zeros((300, 300), np.uint8)])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ValueError, match=r"can't label f1: .*too large .*90000 pixels"):
        add_pseudo_labels(rows, FakeTeacher())


def test_broken_rows_are_skipped_if_asked(
    dataset: datasets.Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Moody(FakeTeacher):
        def probabilities(self, frame: np.ndarray) -> np.ndarray:
            return super().probabilities(frame) * (np.nan if frame.mean() > 200 else 1)

    bright = np.full((32, 40), 250, np.uint8)
    bright[3, 3] = 255
    good = np.zeros((32, 40), np.uint8)
    good[3, 3] = 255
    rows = with_image(frames_dataset([good, bright, good, good, np.zeros((300, 300), np.uint8)]), 2, b"no image")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    labelled = add_pseudo_labels(rows, Moody(), skip_broken=True)
    assert labelled["label_source"][:] == ["pseudo", "none", "none", "pseudo", "none"]
    assert all(raw(labelled, column)[i] is None for i in (1, 2, 4) for column in PSEUDO_FEATURES)
    messages = [record.message for record in caplog.records]
    assert len(messages) == 3 and all(m.startswith("skipped: ") for m in messages)
    assert {name for name in ("f1", "f2", "f4") if any(name in m for m in messages)} == {"f1", "f2", "f4"}


def test_sixteen_bit_frames_reach_the_teacher_whole() -> None:
    frame = np.full((32, 40), 14000, np.uint16)
    frame[5, 5] = 15000
    assert add_pseudo_labels(frames_dataset([frame]), FakeTeacher())[0]["pseudo_objects"]["bbox"] == [[5, 5, 1, 1]]


def test_training_mask() -> None:
    mask = np.zeros((2, 3), np.uint8)
    mask[0, 1] = 255
    human = {"name": "a", "label_source": "human", "mask": Image.fromarray(mask)}
    target, weight = training_mask(human)
    np.testing.assert_array_equal(target, mask / 255)
    assert (weight == 1).all() and target.dtype == weight.dtype == np.float32
    confidence = np.array([[0, 255, 51], [128, 102, 204]], np.uint8)
    pseudo = {"label_source": "pseudo", "mask": None, "pseudo_mask": Image.fromarray(mask)}
    pseudo |= {"pseudo_confidence": Image.fromarray(confidence), "teacher": {"threshold": 0.81}}
    target, weight = training_mask(pseudo)
    np.testing.assert_array_equal(target, mask / 255)
    np.testing.assert_allclose(weight, [[1, 1, 0.6], [1 / 255, 0.2, 0.6]], atol=1e-6)
    assert weight.dtype == np.float32
    # What is above the threshold and not in the mask was turned down: neither target nor background.
    turned_down = pseudo | {"teacher": {"threshold": 0.5}}
    _, weight = training_mask(turned_down)
    np.testing.assert_allclose(weight, [[1, 1, 0.6], [0, 0.2, 0]], atol=1e-6)
    assert weight[1, 0] == weight[1, 2] == 0
    assert training_mask({"label_source": "none"}) is None
    with pytest.raises(ValueError, match="a: `label_source` is human, but there is no mask"):
        training_mask({**human, "mask": None})


def test_round_trips(dataset: datasets.Dataset, tmp_path: Path) -> None:
    labelled = add_pseudo_labels(dataset, FakeTeacher(), name="t")
    labelled.save_to_disk(str(tmp_path / "disk"))
    labelled.to_parquet(str(tmp_path / "set.parquet"))
    files = {"data_files": str(tmp_path / "set.parquet"), "split": "train"}
    parquet = datasets.load_dataset("parquet", **files, cache_dir=str(tmp_path / "cache"))
    stream = datasets.load_dataset("parquet", **files, streaming=True)
    for again in (datasets.load_from_disk(str(tmp_path / "disk")), parquet, stream):
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
    assert [summary[k] for k in ("empty", "one", "many", "objects")] == [
        counts.count(0),
        counts.count(1),
        sum(c > 1 for c in counts),
        sum(counts),
    ]
    assert summary["area_quartiles"][0] >= 1

    truth = camera().to_dataset(10)
    quality = evaluate_pseudo_labels(labelled, truth)
    rows = truth.select([i for i, s in enumerate(dataset["label_source"]) if s == "none"])
    rounded = lambda f: np.rint(255 * FakeTeacher().probabilities(read_frame(f))) / 255  # noqa: E731
    direct = evaluate_probabilities(rounded, rows, threshold=0.8)
    assert quality["n_images"] == 7 and {k: v for k, v in quality.items() if k != "threshold"} == {
        k: v for k, v in direct.items() if k != "threshold"
    }
    with pytest.raises(ValueError, match="has no mask of synthetic-"):
        evaluate_pseudo_labels(labelled, dataset)
    with pytest.raises(ValueError, match="has no mask of synthetic-"):
        evaluate_pseudo_labels(labelled, truth.select([0]))
    with pytest.raises(ValueError, match=r"synthetic-.* has no mask to evaluate with"):
        evaluate_probabilities(rounded, dataset)
