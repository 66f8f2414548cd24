import json
import runpy
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from scalpel_hf import InfraredImageProcessor, SyntheticInfrared, apply_label_budget
from scalpel_hf.cli import plan
from scalpel_hf.cli.convert_from import read_names
from scalpel_hf.data import LabelBudget
from scalpel_hf.data.objects import encode_png
from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.modeling.moe import PriorPyramid
from scalpel_hf.pseudo_labels.planner import (
    candidates,
    choose,
    describe_frames,
    mask_uncertainty,
    plan_labels,
    teacher_uncertainty,
)
from tests.small_models import small_mobile_sam

SCRIPTS = Path(__file__).parents[2] / "scripts"


class FakeTeacher:
    """The frame's brightness as probability."""

    def __init__(self) -> None:
        self.calls = 0

    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        self.calls += 1
        return (frame.astype(np.float32) - frame.min()) / np.ptp(frame)


@pytest.fixture(scope="module")
def sam() -> torch.nn.Module:
    return small_mobile_sam()


@pytest.fixture(scope="module")
def frames() -> datasets.Dataset:
    """24 frames, 4 of them labelled."""
    camera = SyntheticInfrared(size=(32, 40), extent=(1, 4), seed=3)
    return apply_label_budget(camera.to_dataset(24), 1 / 6)


@pytest.fixture(scope="module")
def features(frames: datasets.Dataset, sam: torch.nn.Module) -> dict[str, np.ndarray]:
    return dict(zip(frames["name"], describe_frames(frames, sam), strict=True))


def planned(dataset: datasets.Dataset, features: dict, budget: int, seed: int = 0, unsure: bool = False) -> Any:
    rows = candidates(dataset, seed)
    uncertainty = teacher_uncertainty(rows, FakeTeacher()) if unsure else None
    return plan_labels(rows, np.stack([features[n] for n in rows["name"]]), budget, uncertainty, seed)


def plainly_chosen(features: np.ndarray, count: int, chosen: list[int], weights: np.ndarray) -> list[int]:
    """The same rows as `choose`, by looking at every row in every step."""
    distances, taken = cdist(features, features), list(chosen)
    for _ in range(count):
        nearest = distances[:, taken].min(1) if taken else np.full(len(features), distances.max())
        gains = {
            row: weights[row] * sum(max(0.0, nearest[i] - distances[row, i]) for i in range(len(features)))
            for row in range(len(features))
            if row not in taken
        }
        best = max(gains.values())
        taken.append(min(row for row, gain in gains.items() if gain >= best * (1 - 1e-12)))
    return taken[len(chosen) :]


@pytest.mark.parametrize("seed", range(5))
def test_choice_is_the_greedy_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, chosen = rng.standard_normal((30, 4)), [3, 17][: seed % 3]
    uncertainty = rng.random(30) if seed % 2 else None
    weights = np.ones(30) if uncertainty is None else 0.1 + uncertainty
    expected = plainly_chosen(features, 30 - len(chosen), chosen, weights)
    assert choose(features, 30 - len(chosen), chosen, uncertainty) == expected
    assert choose(features, 5, chosen, uncertainty) == expected[:5]


def test_one_of_each_cluster_and_none_of_one_that_has_a_label() -> None:
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    cross = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    features = np.concatenate([centre + cross for centre in centres])  # five rows each
    assert sorted(row // 5 for row in choose(features, 4)) == [0, 1, 2, 3]
    assert sorted(row // 5 for row in choose(features, 3, [7])) == [0, 2, 3]
    assert choose(features[:5], 1) == [0]  # the middle


def test_equal_frames_are_chosen_once_before_others() -> None:
    features = np.array([[0.0], [0.0], [0.0], [5.0], [20.0]])
    assert choose(features, 3) == [0, 4, 3]
    assert sorted(choose(features, 5)) == [0, 1, 2, 3, 4]


def test_of_two_alike_the_teacher_decides() -> None:
    features = np.array([[0.0], [1.0], [10.0], [11.0]])
    assert choose(features, 2, uncertainty=np.array([0.1, 0.9, 0.1, 0.1]))[0] == 1
    assert choose(features, 2, uncertainty=np.array([0.1, 0.1, 0.1, 0.9]))[0] == 3


def test_uncertainty_of_a_mask() -> None:
    def of(*values: float) -> float:
        return mask_uncertainty(np.array(values, np.float32))

    assert of(0, 0, 0.09) == 0 and of(1, 1, 0) == 0
    assert of(0.5) == pytest.approx(1 / 2) and of(0.5, 0.5, 0.5) == pytest.approx(3 / 4)
    assert of(*[0.001] * 10000, 1, 1) == 0  # a background that is nowhere quite 0
    assert of(1, 1, 1, 0.5) < of(0.3, 0.3) < of(0.5, 0.5) < 1
    assert mask_uncertainty(np.full((2, 2), 0.5)) == pytest.approx(4 / 5)


def test_the_teacher_is_asked_about_unlabelled_frames_alone(frames: datasets.Dataset) -> None:
    teacher = FakeTeacher()
    unsure = teacher_uncertainty(frames, teacher)
    assert teacher.calls == 20
    for value, row in zip(unsure, frames, strict=True):
        probability = FakeTeacher().probabilities(np.asarray(row["image"]))
        assert value == (0 if row["label_source"] == "human" else pytest.approx(mask_uncertainty(probability)))


def test_uncertainty_from_the_column(frames: datasets.Dataset) -> None:
    assert teacher_uncertainty(frames) is None
    probabilities = [FakeTeacher().probabilities(np.asarray(row["image"])) for row in frames]
    cells = [{"bytes": encode_png(np.rint(p * 255).astype(np.uint8)), "path": None} for p in probabilities]
    human = [source == "human" for source in frames["label_source"]]
    kept = [None if is_human else cell for is_human, cell in zip(human, cells, strict=True)]
    rows = frames.add_column("pseudo_confidence", kept, feature=datasets.Image())
    direct = teacher_uncertainty(frames, FakeTeacher())
    # 8 bits: 4p(1 − p) of a pixel is off by at most 4 / 510, and one near 0.1 may change sides
    np.testing.assert_allclose(teacher_uncertainty(rows), direct, atol=0.02)
    kept[human.index(False)] = None
    lacking = frames.add_column("pseudo_confidence", kept, feature=datasets.Image())
    assert teacher_uncertainty(lacking) is None


def test_features_are_embeddings_and_prior_statistics(frames: datasets.Dataset, sam: torch.nn.Module) -> None:
    described = describe_frames(frames, sam)
    processor, pyramid = InfraredImageProcessor(sam_size=64), PriorPyramid(OPERATOR_SCALES)
    embeddings, statistics = [], []
    for row in frames:
        inputs = processor(np.asarray(row["image"]), return_tensors="pt")
        with torch.no_grad():
            embeddings.append(sam.get_image_embeddings(inputs["pixel_values"])[0])
            statistics.append(pyramid(inputs["frames"])[1].flatten())
    assert embeddings[0].shape == (32, 4, 4)  # 40 × 32 pixels cover 64 × 51 of 64: all four rows of tokens
    for part, pooled in (
        (described[:, :32], torch.stack(embeddings).mean((2, 3))),
        (described[:, 32:], torch.stack(statistics)),
    ):
        pooled = pooled.double().numpy()
        expected = (pooled - pooled.mean(0)) / pooled.std(0) / np.sqrt(pooled.shape[1])
        np.testing.assert_allclose(part, expected, atol=1e-4)
        # Both parts weigh alike: each has a mean squared distance of 2 between frames drawn at random.
        assert (cdist(part, part) ** 2).mean() == pytest.approx(2)


def test_padding_is_not_part_of_a_frame(sam: torch.nn.Module) -> None:
    camera = SyntheticInfrared(size=(32, 128), extent=(1, 4), seed=1)
    rows = camera.to_dataset(6)
    described = describe_frames(rows, sam)
    pooled = []
    for row in rows:
        inputs = InfraredImageProcessor(sam_size=64)(np.asarray(row["image"]), return_tensors="pt")
        with torch.no_grad():
            pooled.append(sam.get_image_embeddings(inputs["pixel_values"])[0, :, :1].mean((1, 2)).double().numpy())
    expected = (np.stack(pooled) - np.mean(pooled, 0)) / np.std(pooled, 0) / np.sqrt(32)
    np.testing.assert_allclose(described[:, :32], expected, atol=1e-4)


def test_masks_change_nothing(frames: datasets.Dataset, sam: torch.nn.Module) -> None:
    frames, rng = frames.select(range(10)), np.random.default_rng(0)
    shuffled = frames.select_columns(["mask", "objects"]).select(rng.permutation(len(frames)))
    broken = [{"bytes": b"no image", "path": None}] * len(frames)
    rest = frames.remove_columns(["mask", "objects"])
    variants = [
        datasets.concatenate_datasets([rest, shuffled], axis=1),
        rest,
        rest.add_column("mask", broken, feature=datasets.Image()),
    ]
    described = describe_frames(candidates(frames), sam)
    plans = []
    for dataset in (frames, *variants):
        rows = candidates(dataset)
        np.testing.assert_array_equal(describe_frames(rows, sam), described)
        plans.append(plan_labels(rows, described, 8, teacher_uncertainty(rows, FakeTeacher())))
    assert all(plan == plans[0] for plan in plans)


@pytest.mark.parametrize("unsure", [False, True])
def test_plans(frames: datasets.Dataset, features: dict[str, np.ndarray], unsure: bool) -> None:
    labelled = {n for n, s in zip(frames["name"], frames["label_source"], strict=True) if s == "human"}
    plan = planned(frames, features, 12, unsure=unsure)
    names = [pick.name for pick in plan.picks]
    assert len(names) == 8 and not labelled & set(names)
    assert plan.budget == LabelBudget(tuple(sorted(labelled | set(names))), 0.5, 0, 24)
    assert planned(frames, features, 12, unsure=unsure) == plan
    assert [pick.name for pick in planned(frames, features, 7, unsure=unsure).picks] == names[:3]
    assert [pick.name for pick in planned(frames, features, 24, unsure=unsure).picks][:8] == names
    turned = frames.select(np.random.default_rng(1).permutation(24))
    assert planned(turned, features, 12, unsure=unsure) == plan
    assert all((pick.uncertainty is not None) == unsure for pick in plan.picks)


def test_what_picks_stand_for(frames: datasets.Dataset, features: dict[str, np.ndarray]) -> None:
    plan = planned(frames, features, 12)
    table = np.stack([features[name] for name in frames["name"]])
    centres = np.stack([features[name] for name in plan.budget.names])
    nearest = cdist(table, centres).argmin(1)
    counts = {name: int((nearest == i).sum()) for i, name in enumerate(plan.budget.names)}
    assert {pick.name: pick.stands_for for pick in plan.picks} == {p.name: counts[p.name] for p in plan.picks}
    assert sum(counts.values()) == 24


def test_without_any_label_and_seeds_between_equals(frames: datasets.Dataset) -> None:
    unlabelled = frames.remove_columns("label_source").add_column("label_source", ["none"] * 24)
    same = {name: np.zeros(3) for name in frames["name"]}
    firsts = {planned(unlabelled, same, 1, seed).picks[0].name for seed in range(8)}
    assert len(firsts) > 3  # nothing to tell the frames apart: the seed decides
    assert planned(unlabelled, same, 1, 5) == planned(unlabelled, same, 1, 5)


def test_a_large_pool_is_sampled(monkeypatch: pytest.MonkeyPatch, frames: datasets.Dataset) -> None:
    monkeypatch.setattr("scalpel_hf.pseudo_labels.planner.POOL", 10)
    rows, other = candidates(frames, 0), candidates(frames, 1)
    assert len(rows) == 14 and rows["label_source"][:4] == ["human"] * 4
    assert set(rows["name"]) != set(other["name"])
    assert candidates(frames.select(range(23, -1, -1)), 0)["name"][:] == rows["name"][:]


def test_errors(frames: datasets.Dataset, features: dict[str, np.ndarray], sam: torch.nn.Module) -> None:
    for budget in (4, 25, 0):
        with pytest.raises(
            ValueError, match=f"4 of 24 frames have a label: the budget must be above that and at most 24, got {budget}"
        ):
            planned(frames, features, budget)
    with pytest.raises(ValueError, match=r"lacks the columns \['label_source'\]"):
        candidates(frames.remove_columns("label_source"))
    with pytest.raises(ValueError, match="names occur more than once"):
        candidates(datasets.concatenate_datasets([frames, frames.select([0])]))
    broken = frames.select([0, 1]).remove_columns("image")
    cells = [{"bytes": encode_png(np.eye(32, dtype=np.uint8)), "path": None}, {"bytes": b"no image", "path": None}]
    broken = broken.add_column("image", cells, feature=datasets.Image())
    with pytest.raises(ValueError, match=rf"{frames[1]['name']}: .*not an image"):
        describe_frames(broken, sam)


def test_the_program_and_what_reads_its_files(
    frames: datasets.Dataset, sam: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    frames.save_to_disk(str(tmp_path / "data"))
    sam.save_pretrained(tmp_path / "sam")
    arguments = ["--dataset", tmp_path / "data", "--base-model", tmp_path / "sam", "--image-size", 64]
    plan.main([str(a) for a in [*arguments, "--budget", 9, "--out", tmp_path / "plan"]])
    assert "5 frames to label, 9 of 24 then have a label" in capsys.readouterr().out
    budget = LabelBudget.load(tmp_path / "plan" / "label_budget.json")
    whole = SyntheticInfrared(size=(32, 40), extent=(1, 4), seed=3).to_dataset(24)
    sources = apply_label_budget(whole, budget=budget)["label_source"][:]
    assert sources.count("human") == 9
    listed = read_names(tmp_path / "plan" / "plan.txt")
    human = {n for n, s in zip(frames["name"], frames["label_source"], strict=True) if s == "human"}
    assert listed == set(budget.names) - human
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match="plan exists"):
        plan.main([str(a) for a in [*arguments, "--budget", 10, "--out", tmp_path / "plan"]])
    with pytest.raises(ValueError, match="4 of 24"):
        plan.main([str(a) for a in [*arguments, "--budget", 3, "--out", tmp_path / "other"]])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_comparison_goes_on_where_it_was(
    sam: torch.nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The trainings themselves are stood in for: what is tested is which of them are run, and on which labels."""
    camera = SyntheticInfrared(size=(32, 40), extent=(1, 4), seed=3)
    splits = datasets.DatasetDict({"train": camera.to_dataset(20), "test": camera.to_dataset(2, start=20)})
    splits.save_to_disk(str(tmp_path / "data"))
    sam.save_pretrained(tmp_path / "sam")
    program = runpy.run_path(str(SCRIPTS / "experiments" / "compare_plans.py"))
    main, trained = program["main"], []

    def train(run: Path, splits: Any, budget: LabelBudget, seed: int, flags: list[str], feature_cache_dir: Path):
        if len(trained) == 3:
            trained.append("killed")
            raise KeyboardInterrupt
        trained.append((run.parent.name, len(budget.names), seed))
        assert flags[-2:] == ["--max_steps", "2"] and feature_cache_dir == tmp_path / "out" / "features"
        metrics = {"iou": len(budget.names) / 10 + seed / 100, "niou": 0.5, "pd": 1.0, "fa": 12.0}
        (run / "teacher").mkdir()
        (run / "teacher" / "metrics.json").write_text(json.dumps({"metrics": {"test": metrics}}))

    main.__globals__["train"] = train
    asked = []
    main.__globals__["teacher_uncertainty"] = lambda rows, teacher: asked.append(teacher) or np.ones(len(rows))
    caches = []

    class StubTeacher:
        @classmethod
        def from_pretrained(cls, *args: Any, feature_cache_dir: Path) -> "StubTeacher":
            caches.append(feature_cache_dir)
            return cls()

        def to(self, device: Any) -> "StubTeacher":
            return self

    main.__globals__["Teacher"] = StubTeacher
    arguments = ["--dataset", tmp_path / "data", "--config", "x.yaml", "--base-model", tmp_path / "sam"]
    arguments += ["--image-size", 64, "--budgets", 0.05, 0.2, "--seeds", 0, 1, "--out", tmp_path / "out"]
    arguments = [str(argument) for argument in arguments]
    with pytest.raises(KeyboardInterrupt):
        main([*arguments, "--max_steps", "2"])
    first = trained[:3]
    main([*arguments, "--max_steps", "2"])
    runs = [run for run in trained if run != "killed"]
    assert runs[:3] == first and len(runs) == len(set(runs)) == 10
    plans = {(p, n, s) for p in ("random", "coverage", "uncertainty") for n in (1, 4) for s in (0, 1)}
    assert set(runs) == plans - {("uncertainty", 1, 0), ("uncertainty", 1, 1)}  # without a teacher that is coverage
    assert len(asked) == 2 and set(caches) == {tmp_path / "out" / "features"}  # at the second budget of each seed
    budgets = {path.parent: LabelBudget.load(path).names for path in (tmp_path / "out").rglob("label_budget.json")}
    for folder, names in budgets.items():
        if "labels1-" in folder.name:
            larger = folder.name.replace("labels1-", "labels4-")
            assert set(names) <= set(budgets[folder.with_name(larger)])
            if folder.parent.name == "coverage":
                assert set(names) <= set(budgets[tmp_path / "out" / "uncertainty" / larger])
    table = (tmp_path / "out" / "results.md").read_text()
    assert "| uncertainty | 1 | 2 | 10.5 ± 0.7 |" in table and table.count("| 1 | 2 | 10.5 ± 0.7 |") == 3
    assert "| coverage | 4 | 2 | 40.5 ± 0.7 | 50.0 ± 0.0 | 100.0 ± 0.0 | 12.0 ± 0.0 |" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds runs with other settings"):
        main([*arguments, "--max_steps", "3"])
