"""Rules, thresholds, quality and report: from predictions to labels that one can judge."""

import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from scalpel_hf import SyntheticInfrared, add_pseudo_labels, apply_label_budget, training_mask
from scalpel_hf.data.masks import IGNORED, TARGET
from scalpel_hf.evaluation.evaluator import evaluate_pseudo_labels
from scalpel_hf.modeling.losses import soft_iou_loss, weighted_bce
from scalpel_hf.predictors.prediction import Prediction
from scalpel_hf.pseudo_labels import Calibration, Rules, label_in_shards, summarize
from scalpel_hf.pseudo_labels.against_truth import check_truth, compare_with_truth
from scalpel_hf.pseudo_labels.report import write_report
from scalpel_hf.pseudo_labels.thresholds import THRESHOLDS, choose_threshold
from scalpel_hf.training.frames import labelled_sample
from tests.pseudo_labels.helpers import FakeTeacher, budgeted, camera, frames_dataset, png, tree, with_image


class Says(FakeTeacher):
    """Answers frame i, known by its first pixel, with a given map and spread."""

    def __init__(self, predictions: list[tuple[np.ndarray, np.ndarray | None]]):
        super().__init__()
        self.given = predictions

    def predict(self, frames: list[np.ndarray]) -> list[Prediction]:
        return [Prediction(*self.given[int(frame[0, 0])]) for frame in frames]


def numbered(n: int) -> list[np.ndarray]:
    frames = [np.random.default_rng(i).integers(100, 200, (32, 40)).astype(np.uint8) for i in range(n)]
    for i, frame in enumerate(frames):
        frame[0, 0] = i
    return frames


def three_objects() -> tuple[np.ndarray, np.ndarray]:
    """One strong of 4 pixels, one weak of 1, one large of 30 on which the views disagree."""
    p, spread = np.full((32, 40), 0.02, np.float32), np.zeros((32, 40), np.float32)
    p[4:6, 4:6], p[10, 30], p[20:25, 10:16] = 0.95, 0.6, 0.8
    spread[20:25, 10:16] = 0.4
    return p, spread


@pytest.mark.parametrize(
    ("rules", "areas"),
    [
        (Rules(), [4, 1, 30]),
        (Rules(min_score=0.7), [4, 30]),
        (Rules(min_area=2), [4, 30]),
        (Rules(max_area=10), [4, 1]),
        (Rules(min_agreement=0.5), [4, 1]),
        (Rules(min_area=2, max_area=10), [4]),
    ],
)
def test_what_the_rules_turn_down_is_ignored(rules: Rules, areas: list[int]) -> None:
    p, spread = three_objects()
    row = add_pseudo_labels(frames_dataset(numbered(1)), Says([(p, spread)]), rules=rules)[0]
    assert row["label_source"] == "pseudo" and row["pseudo_objects"]["area"] == areas
    target, weight = training_mask(row)
    assert target.sum() == sum(areas)
    rejected = (p > 0.5) & (target == 0)
    assert rejected.sum() == 35 - sum(areas) and not weight[rejected].any()
    assert weight[~rejected].min() > 0.19
    assert row["pseudo_score"] == pytest.approx(max(row["pseudo_objects"]["score"])) == pytest.approx(0.95, abs=2e-3)


def test_a_student_learns_nothing_from_ignored_pixels() -> None:
    p, spread = three_objects()
    row = add_pseudo_labels(frames_dataset(numbered(1)), Says([(p, spread)]), rules=Rules(max_area=10))[0]
    sample = labelled_sample(row)
    target, weight = torch.from_numpy(sample.target), torch.from_numpy(sample.weight)
    logits = torch.zeros(target.shape, requires_grad=True)
    (weighted_bce(logits, target, weight) + soft_iou_loss(logits, target, weight)).backward()
    ignored = np.zeros(p.shape, bool)
    ignored[20:25, 10:16] = True
    assert not logits.grad.numpy()[ignored].any() and logits.grad.numpy()[~ignored].all()


def test_a_frame_is_empty_only_where_the_teacher_is_sure() -> None:
    def at(value: float, threshold_value: float = 0.0) -> tuple[np.ndarray, None]:
        p = np.full((32, 40), 0.01, np.float32)
        p[5:7, 5:7] = value
        return p, None

    teacher = Says([at(0.01), at(0.15), at(0.3), at(0.45), at(0.6), at(0.99)])
    rows = frames_dataset(numbered(6))

    def sources(**rules: Any) -> str:
        kwargs = {"calibration": rules.pop("calibration", None)}
        labelled = add_pseudo_labels(rows, teacher, rules=Rules(**rules), **kwargs)
        for row in labelled:
            if row["label_source"] == "none":
                assert row["pseudo_mask"] is None and row["pseudo_objects"] is None and row["pseudo_score"] is None
                assert row["teacher"] is not None and row["pseudo_confidence"] is not None
                assert training_mask(row) is None
        return "".join(source[0] for source in labelled["label_source"])

    assert sources() == "ppnnpp"  # pseudo, pseudo, none, none, pseudo, pseudo
    assert sources(min_empty=0.5) == "pppppp"
    assert sources(min_empty=0.99) == "pnnnpp"
    assert sources(min_score=0.7) == "ppnnnp"  # seen, not believed: not a label of an empty frame either
    untrusted = Calibration(frames=4, empty_wrong=0, empty_right=0)
    assert sources(calibration=untrusted) == "nnnnpp"
    assert sources(calibration=Calibration(frames=12, empty_right=10)) == "pnnnpp"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"min_score": 1.1}, "`min_score` must be between 0 and 1"),
        ({"min_agreement": -0.1}, "`min_agreement` must be"),
        ({"min_empty": 2}, "`min_empty` must be"),
        ({"min_area": 5, "max_area": 4}, "no object can have an area from 5 to 4"),
    ],
)
def test_rules_that_make_no_sense(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Rules(**settings)


def with_masks(masks: list[np.ndarray]) -> datasets.Dataset:
    """Masks of True and False, or as `read_mask` gives them."""
    rows = frames_dataset(numbered(len(masks)), ["human"] * len(masks)).remove_columns("mask")
    masks = [m.astype(np.uint8) * 255 if m.dtype == bool else m for m in masks]
    cells = [{"bytes": png(m), "path": None} for m in masks]
    return rows.add_column("mask", cells, feature=datasets.Image())


def test_a_threshold_is_chosen_where_the_overlap_is_best() -> None:
    rng = np.random.default_rng(0)
    truth, maps = [], []
    for _ in range(5):
        mask = np.zeros((32, 40), bool)
        mask[5:9, 5:9] = True
        p = np.where(mask, 0.75, 0.05) + rng.uniform(-0.04, 0.04, mask.shape)
        p[4:10, 4:10] = np.where(mask[4:10, 4:10], p[4:10, 4:10], 0.58)  # a halo that only a high threshold cuts
        truth.append(mask)
        maps.append(p.astype(np.float32))
    choice = choose_threshold(with_masks(truth), Says([(p, None) for p in maps]), batch_size=2)
    assert choice.threshold == 0.6 and len(choice.iou) == len(THRESHOLDS)
    for threshold, iou in zip(THRESHOLDS, choice.iou, strict=True):
        found = [np.rint(p * 255) / 255 > threshold for p in maps]
        expected = sum((f & m).sum() for f, m in zip(found, truth, strict=True)) / sum(
            (f | m).sum() for f, m in zip(found, truth, strict=True)
        )
        assert iou == pytest.approx(expected)
    assert choice.left_out_iou == pytest.approx(choice.iou[THRESHOLDS.index(0.6)])
    with pytest.raises(ValueError, match="no frame has a person's mask"):
        choose_threshold(with_masks(truth).select([]), FakeTeacher())

    open_halo = [np.where(m, TARGET, 0).astype(np.uint8) for m in truth]
    for mask, p in zip(open_halo, maps, strict=True):
        mask[(p > 0.5) & (mask == 0)] = IGNORED
    assert choose_threshold(with_masks(open_halo), Says([(p, None) for p in maps])).threshold == 0.5


def test_what_a_threshold_cannot_be_chosen_on_names_the_row() -> None:
    mask = np.zeros((32, 40), bool)
    mask[5:9, 5:9] = True
    good = Says([(mask.astype(np.float32), None)] * 2)
    with pytest.raises(ValueError, match="prediction for f1 has values outside 0 to 1"):
        choose_threshold(with_masks([mask] * 2), Says([good.given[0], (np.full((32, 40), np.nan), None)]))
    with pytest.raises(ValueError, match=r"can't label f1: the mask is \(31, 40\), the frame \(32, 40\)"):
        choose_threshold(with_masks([mask, mask[1:]]), good)
    broken = with_image(with_masks([mask] * 2), 1, b"no image")
    with pytest.raises(ValueError, match=r"can't label f1: .*not an image"):
        choose_threshold(broken, good)


def test_a_frame_left_out_is_measured_at_the_others_threshold() -> None:
    mask = np.zeros((32, 40), bool)
    mask[5:9, 5:9] = True
    low, high = np.where(mask, 0.3, 0.0), np.where(mask, 0.9, 0.0)
    high[4:10, 4:10] = np.where(mask[4:10, 4:10], 0.9, 0.4)
    choice = choose_threshold(with_masks([mask] * 3), Says([(p.astype(np.float32), None) for p in (low, high, high)]))
    # The two that agree choose one above 0.4, at which the first finds nothing; with it, one below does best.
    assert choice.left_out_iou < max(choice.iou)


@pytest.fixture
def judged() -> tuple[datasets.Dataset, datasets.Dataset]:
    """Two frames with the three objects, two of which are targets in the first and none in the second; one empty, one
    that the teacher isn't sure about."""
    nothing, doubt = np.full((32, 40), 0.01, np.float32), np.full((32, 40), 0.01, np.float32)
    doubt[7, 7] = 0.4
    teacher = Says([three_objects(), three_objects(), (nothing, nothing * 0), (doubt, nothing * 0)])
    labelled = add_pseudo_labels(frames_dataset(numbered(4)), teacher, rules=Rules(max_area=10))
    first = np.zeros((32, 40), bool)
    first[4:6, 4:7] = first[20:25, 10:16] = first[0, 20] = True
    masks = [first, np.zeros_like(first), np.zeros_like(first), first]
    return labelled, with_masks(masks)


def test_quality_against_the_truth(judged: tuple[datasets.Dataset, datasets.Dataset]) -> None:
    labelled, truth = judged
    quality = compare_with_truth(labelled, truth)
    metrics = evaluate_pseudo_labels(labelled, truth)
    with pytest.raises(ValueError, match="no frame has a pseudo label to measure"):
        evaluate_pseudo_labels(labelled.select([]), truth)
    assert {k: v for k, v in quality.items() if k in metrics} == metrics and quality["n_images"] == 3
    assert (quality["objects"], quality["true_objects"]) == (4, 1)
    assert (quality["ignored"], quality["true_ignored"]) == (2, 1)
    assert [quality[k] for k in ("targets_found", "targets_open", "targets_missed")] == [1, 1, 1]
    assert [quality[k] for k in ("empty_right", "empty_wrong")] == [1, 0]
    assert [quality[k] for k in ("unsure_empty", "unsure_with_target")] == [0, 1]
    bins = {b["from"]: (b["objects"], b["true"]) for b in quality["scores"] if b["objects"]}
    assert (
        bins == {0.6: (2, 0), 0.9: (2, 1)} or bins == {0.5: (2, 0), 0.9: (2, 1)} or bins == {0.6: (2, 0), 0.95: (2, 1)}
    )
    with pytest.raises(ValueError, match="has no mask of f0"):
        compare_with_truth(labelled, truth.select([1]))
    streamed = compare_with_truth(labelled.to_iterable_dataset(), truth)
    assert streamed == quality


def test_quality_where_the_truth_is_open(judged: tuple[datasets.Dataset, datasets.Dataset]) -> None:
    """As before, but in place of background there are pixels of which nobody knows: what is found there is no error."""
    labelled, truth = judged
    before = compare_with_truth(labelled, truth)
    masks = [np.where(np.asarray(row["mask"]) > 0, TARGET, IGNORED).astype(np.uint8) for row in truth]
    quality = compare_with_truth(labelled, with_masks(masks))
    assert (quality["objects"], quality["true_objects"]) == (1, 1) == (before["true_objects"],) * 2
    assert (quality["ignored"], quality["true_ignored"]) == (1, 1)
    assert sum(b["objects"] for b in quality["scores"]) == 1 and quality["fa"] == 0
    counts = ("empty_right", "empty_wrong", "unsure_empty", "unsure_with_target", "unknown")
    assert [quality[name] for name in counts] == [0, 0, 0, 1, 1]
    assert [before[name] for name in counts] == [1, 0, 0, 1, 0]
    assert [quality[k] for k in ("targets_found", "targets_open", "targets_missed")] == [1, 1, 1]


def test_the_report(tmp_path: Path) -> None:
    truth = camera().to_dataset(20)
    human = budgeted(20).filter(lambda source: source == "human", input_columns="label_source", keep_in_memory=True)
    out = tmp_path / "out"
    labelled = label_in_shards(
        budgeted(20),
        FakeTeacher(),
        out,
        0.8,
        "org/teacher",
        rules=Rules(0.8, min_area=2),
        calibration="labelled",
        report=lambda _: None,
    )
    quality = compare_with_truth(labelled, truth)
    before = tree(out)
    write_report(out, labelled, truth, quality, choose_threshold(human, FakeTeacher()), cases=3)
    text = (out / "report" / "README.md").read_text()
    assert {k: v for k, v in tree(out).items() if not k.startswith("report/")} == before

    summary, objects = summarize(labelled), [o for o in labelled["pseudo_objects"] if o]
    for line in (
        "Made by `org/teacher`, weights and settings `fake-1.0`",
        f"| labelled by people | {summary['human']} |",
        f"| pseudo-labelled | {summary['pseudo']} |",
        f"IoU {100 * quality['iou']:.1f} %",
        "| features | loss |",
        "with a score of 0 or\nmore, 2 px or more,",
        "which has the best IoU on the labelled frames",
    ):
        assert line in text
    tables = text.split("## ")
    for title, values in (
        ("Area", [a for o in objects for a in o["area"]]),
        ("Score", [s for o in objects for s in o["score"]]),
    ):
        (table,) = (t for t in tables if t.startswith(f"{title} of the objects"))
        counts = re.findall(r"^\| [\d.]+ \| (\d+) \|", table, re.M)
        assert sum(map(int, counts)) == len(values) > 5
    pictures = re.findall(r"!\[(.*?)\]\((\w+\.png)\)", text)
    assert {p for _, p in pictures} == {p.name for p in (out / "report").glob("*.png")} - {"grid.png"}
    with Image.open(out / "report" / "grid.png") as grid:
        assert grid.size == (3 * 40 + 2 * 4, 3 * 32 + 2 * 4)
    sections = {t.splitlines()[0]: re.findall(r"!\[(.*?)\]", t) for t in tables}
    worst = {row["name"]: min(row["pseudo_objects"]["score"]) for row in labelled if row["pseudo_score"]}
    ranked = sorted(worst, key=lambda name: worst[name])
    assert len(sections["Lowest scores"]) == min(3, len(ranked))
    assert [worst[n] for n in sections["Lowest scores"]] == sorted(worst.values())[:3]
    assert [worst[n] for n in sections["Highest scores"]] == sorted(worst.values())[::-1][:3]
    with Image.open(out / "report" / pictures[0][1]) as picture:
        assert picture.size == (3 * 40 + 2 * 4, 32)

    again = tree(out / "report")
    write_report(out, labelled, truth, quality, choose_threshold(human, FakeTeacher()), cases=3)
    assert tree(out / "report") == again
    write_report(out, labelled)
    assert "hidden" not in (out / "report" / "README.md").read_text()
    json.loads((out / "summary.json").read_text())


def test_the_truth_is_checked_before_anything_is_labelled() -> None:
    truth = SyntheticInfrared(size=(32, 32), n_targets=(1, 1), seed=1).to_dataset(3)
    check_truth(truth)
    check_truth(truth, truth["name"][:2])
    with pytest.raises(ValueError, match="no mask of elsewhere"):
        check_truth(truth, [truth["name"][0], "elsewhere"])
    with pytest.raises(ValueError, match="no mask of "):
        check_truth(apply_label_budget(truth, 0.3), truth["name"][:])
    with pytest.raises(ValueError, match="names occur more than once in the data set with the truth"):
        check_truth(datasets.concatenate_datasets([truth, truth]))
    with pytest.raises(ValueError, match=r"lacks the columns \['mask'\]"):
        check_truth(truth.remove_columns("mask"))
