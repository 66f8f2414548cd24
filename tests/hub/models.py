"""Tiny trained-looking teachers, students and data sets in folders, for what is pushed and loaded."""

from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
from huggingface_hub import HfApi
from peft import get_peft_model
from PIL import Image

from scalpel_hf import (
    DetectionStudent,
    InfraredImageProcessor,
    ScalpelMoeConfig,
    ScalpelStudentConfig,
    ScalpelStudentDetectionConfig,
    ScalpelStudentForObjectDetection,
    ScalpelStudentForSemanticSegmentation,
    SegmentationStudent,
    Teacher,
    add_pseudo_labels,
    apply_label_budget,
    load_sam,
)
from scalpel_hf.data import LabelBudget
from scalpel_hf.evaluation.evaluator import evaluate_detections, evaluate_probabilities
from scalpel_hf.training.contact_sheet import SHEET_FILE
from scalpel_hf.training.recipe_arguments import LoopArguments
from scalpel_hf.training.run_record import write_metrics
from tests.small_models import SIZE, perturb, settle

FRAME = np.random.default_rng(5).normal(1000, 30, (40, 48)).astype(np.float32)
MASK = (FRAME > 1040).astype(np.uint8) * 255
ROWS = [{"image": FRAME, "mask": MASK}]


@dataclass
class Arguments(LoopArguments):
    dataset: str = "data/nuaa-10pct"
    eval_split: str = "test"
    base_model: str = ""
    pseudo_labels: str = "org/labels"
    task: str = "segmentation"


def finish(folder: Path, metrics: dict, **arguments: str) -> None:
    """Leave in the folder what a run leaves there, wanted and not."""
    outcome = {"steps": 7, "samples": 28, "seconds": 3.0, "last": {"loss": 0.5}, "best": None}
    write_metrics(Arguments(output_dir=str(folder), seed=3, **arguments), outcome, {"test": metrics})
    for name in (
        "checkpoint-7/training.pt",
        "checkpoint-7/weights.safetensors",
        "features/a.safetensors",
        "logs/events",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not to be pushed")
    for name in ("best.safetensors", SHEET_FILE, "history.svg", "history.json"):
        (folder / name).write_bytes(b"not to be pushed")


def make_teacher(folder: Path, base: torch.nn.Module, **arguments: str) -> Teacher:
    """A teacher whose base lies in a folder, as after training."""
    base.save_pretrained(folder / "base")
    model = get_peft_model(
        load_sam(folder / "base"), ScalpelMoeConfig(blocks=1, channels=8, full_resolution_channels=0)
    ).eval()
    perturb(model)
    teacher = Teacher(model, InfraredImageProcessor(sam_size=SIZE))
    settle(
        teacher, FRAME
    )  # statistics that no training has fitted make large logits, and of rounding large differences
    teacher.save_pretrained(folder / "teacher")
    metrics = evaluate_probabilities(teacher.probabilities, ROWS)
    finish(folder / "teacher", metrics, base_model=str(folder / "base"), **arguments)
    return teacher


def make_student(folder: Path, **arguments: str) -> SegmentationStudent:
    torch.manual_seed(0)
    model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size("nano")).eval()
    with torch.no_grad():
        model.classifier.weight.mul_(300)  # a fresh one gives nearly the same probability everywhere
    student = SegmentationStudent(model, InfraredImageProcessor())
    student.save_pretrained(folder)
    finish(folder, evaluate_probabilities(student.probabilities, ROWS), **arguments)
    return student


def make_detector(folder: Path, **arguments: str) -> DetectionStudent:
    torch.manual_seed(0)
    model = ScalpelStudentForObjectDetection(ScalpelStudentDetectionConfig.from_size("nano")).eval()
    detector = DetectionStudent(model, InfraredImageProcessor())
    detector.save_pretrained(folder)
    finish(folder, evaluate_detections(detector.detect, ROWS), task="detection", **arguments)
    return detector


def make_prepared(folder: Path, count: int = 6) -> datasets.DatasetDict:
    """A prepared folder, half of whose training frames kept their masks."""
    rng = np.random.default_rng(0)
    splits = {}
    for split in ("train", "test"):
        frames = [rng.normal(100, 10, (40, 48)).clip(0, 255).astype(np.uint8) for _ in range(count)]
        masks = [np.zeros((40, 48), np.uint8) for _ in frames]
        for frame, mask in zip(frames, masks, strict=True):
            y, x = rng.integers(4, 30, 2)
            frame[y : y + 3, x : x + 2], mask[y : y + 3, x : x + 2] = 220, 255
        columns = {
            "name": [f"{split}-{i}" for i in range(count)],
            "image": [Image.fromarray(frame) for frame in frames],
            "mask": [Image.fromarray(mask) for mask in masks],
            "objects": [{"area": [6]}] * count,
        }
        features = {"name": datasets.Value("string"), "image": datasets.Image(), "mask": datasets.Image()}
        features["objects"] = {"area": datasets.List(datasets.Value("int32"))}
        splits[split] = datasets.Dataset.from_dict(columns, datasets.Features(features))
    budget = LabelBudget.draw(splits["train"]["name"], 0.5)
    splits["train"] = apply_label_budget(splits["train"], budget=budget)
    prepared = datasets.DatasetDict(splits)
    prepared.save_to_disk(str(folder))
    budget.save(folder / "label_budget.json")
    return prepared


def make_labelled(teacher: Teacher, folder: Path, name: str) -> datasets.Dataset:
    """Two frames in files of this machine, one of them with a human's mask, labelled by a teacher."""
    frames = [np.clip(FRAME - 900 + 10 * i, 0, 255).astype(np.uint8) for i in range(2)]
    paths = [str(folder / f"{i}.png") for i in range(2)]
    for frame, path in zip(frames, paths, strict=True):
        Image.fromarray(frame).save(path)
    features = {"name": datasets.Value("string"), "image": datasets.Image(), "mask": datasets.Image()}
    rows = {"name": ["a", "b"], "image": paths, "mask": [Image.fromarray((frames[0] > 150).astype(np.uint8)), None]}
    rows["label_source"] = ["human", "none"]
    features["label_source"] = datasets.Value("string")
    return add_pseudo_labels(datasets.Dataset.from_dict(rows, datasets.Features(features)), teacher, name=name)


def push_base(client: HfApi, folder: Path, name: str) -> None:
    client.create_repo(name)
    client.upload_folder(repo_id=name, folder_path=folder / "base")
