"""What is fed with wrong files: right ones to begin with, and the program or function that reads them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import torch
import yaml
from PIL import Image

from scalpel_hf import SyntheticInfrared, apply_label_budget, load_student
from scalpel_hf.cli import convert_from, convert_to, prepare
from scalpel_hf.data import LabelBudget
from scalpel_hf.data.objects import encode_png
from scalpel_hf.formats import write_coco, write_label_studio
from scalpel_hf.pseudo_labels import Calibration
from scalpel_hf.runtime.onnx_models import load_exported
from scalpel_hf.training.arguments import parse_arguments
from scalpel_hf.training.checkpoints import Checkpoints, Ema
from scalpel_hf.training.recipe_arguments import DistillArguments
from scripts.experiments import ablate
from tests.formats.small_sets import tiny
from tests.runtime.made_by_hand import write_student
from tests.small_students import small_student

FRAME = np.random.default_rng(0).integers(0, 255, (40, 48)).astype(np.uint8)
OUT = "out"  # what a target may leave behind where all is well


@dataclass(frozen=True)
class Target:
    """
    Args:
        make: writes right files into a folder.
        use: reads them, and looks at what came of it: an `AssertionError` is a wrong result.
        words: of which an error has at least one, where it names no file.
    """

    make: Callable[[Path], object]
    use: Callable[[Path], object]
    words: tuple[str, ...] = ()


def frames() -> datasets.Dataset:
    return SyntheticInfrared(size=(32, 40), n_targets=(1, 2), extent=(2, 4), seed=1).to_dataset(4)


def make_frames(folder: Path) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for index, row in enumerate(frames()):
        suffix = (".png", ".tif", ".bmp", ".jpg")[index]
        Image.fromarray(np.asarray(row["image"]).astype(np.uint8)).save(folder / "images" / f"f{index}{suffix}")
        Image.fromarray(np.asarray(row["mask"])).save(folder / "masks" / f"f{index}.png")
    (folder / "train.txt").write_text("f0\nf1\nf2\n")
    (folder / "test.txt").write_text("f3\n")


def prepare_frames(folder: Path) -> None:
    out = folder / OUT
    prepare.main(["--layout", "generic", "--root", str(folder), "--budget", "0.5", "--out", str(out)])
    splits = datasets.load_from_disk(str(out))
    for rows in splits.values():
        for row in rows:
            shape = np.asarray(row["image"]).shape
            assert (row["height"], row["width"]) == shape[:2]
            assert row["mask"] is None or np.asarray(row["mask"]).shape == shape[:2]


def make_prepared(folder: Path) -> None:
    splits = {"train": apply_label_budget(frames(), 0.5), "test": apply_label_budget(frames(), 1.0)}
    datasets.DatasetDict(splits).save_to_disk(str(folder / "set"))


def export(folder: Path) -> None:
    flags = ["coco", "--dataset", str(folder / "set"), "--split", "train", "--out", str(folder / OUT)]
    convert_to.main(flags)
    assert json.loads((folder / OUT / "annotations.json").read_text())["images"]


def make_labels(write: Callable, folder: Path) -> None:
    """Labels beside the set that they are for, which itself stays right: it is of another target."""
    write(tiny(), folder / "labels")
    for name in ("images", "label_config.xml"):
        path = folder / "labels" / name
        if path.is_file():
            path.unlink()
        elif path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()


def take_labels(form: str, file: str, folder: Path) -> None:
    rows = folder.with_name("rows-to-label")
    if not rows.exists():
        datasets.DatasetDict({"train": tiny()}).save_to_disk(str(rows))
    labels = folder / "labels" / file
    flags = [form, str(labels), "--dataset", str(rows), "--out", str(folder / OUT)]
    convert_from.main(flags)
    for row in datasets.load_from_disk(str(folder / OUT))["train"]:
        assert row["mask"] is None or np.asarray(row["mask"]).shape == (row["height"], row["width"])


def use_calibration(folder: Path) -> None:
    calibration = Calibration.load(folder / "calibration.json")
    assert 0 <= calibration.trust_in_empty <= 1 and np.isfinite(calibration.bias)


def use_budget(folder: Path) -> None:
    assert all(isinstance(name, str) for name in LabelBudget.load(folder / "label_budget.json").names)


def make_recipe(folder: Path) -> None:
    values = {"dataset": "data", "learning_rate": 1e-3, "max_steps": 10, "levels": ["pixel"], "resume": False}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))


def use_recipe(folder: Path) -> None:
    args = parse_arguments(DistillArguments, "distill", None, ["--config", str(folder / "recipe.yaml")])
    assert args.max_steps >= 1 and 0 <= args.learning_rate <= 1 and isinstance(args.dataset, str)


def make_ablation(folder: Path) -> None:
    values = {"common": {"dataset": "data"}, "seeds": [0, 1], "variants": {"a": {}, "b": {"routers": False}}}
    (folder / "ablation.yaml").write_text(yaml.safe_dump(values))


def use_student(folder: Path) -> None:
    probabilities = load_student(folder / "student").probabilities(FRAME)
    assert probabilities.shape == FRAME.shape and np.isfinite(probabilities).all()


def use_exported(folder: Path) -> None:
    found = load_exported(folder / "onnx", threads=1).detect(FRAME)
    assert np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()


def checkpoints(folder: Path) -> Checkpoints:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    values = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return Checkpoints(folder / "run", model, values, Ema(values, 0.9), optimizer, schedule)


def make_checkpoint(folder: Path) -> None:
    made = checkpoints(folder)
    state = {"step": 3, "seconds": 1.0, "best": None, "last": {}, "arguments": {"seed": 0}, "made_of": {"rows": "a"}}
    made.save(state)


def use_checkpoint(folder: Path) -> None:
    state = checkpoints(folder).load({"seed": 0}, {"rows": "a"})
    assert state["step"] in (0, 3)


def make_calibration(folder: Path) -> None:
    Calibration(("area",), (1.0,), 0.5, (0.0,), (1.0,), frames=3).save(folder / "calibration.json")


TARGETS = {
    "frames": Target(make_frames, prepare_frames),
    "prepared": Target(make_prepared, export, ("data set", "split", "column", "synthetic-")),
    "coco": Target(
        lambda folder: make_labels(write_coco, folder),
        lambda folder: take_labels("coco", "annotations.json", folder),
    ),
    "label studio": Target(
        lambda folder: make_labels(write_label_studio, folder),
        lambda folder: take_labels("label-studio", "tasks.json", folder),
    ),
    "calibration": Target(make_calibration, use_calibration),
    "budget": Target(lambda folder: LabelBudget.draw("abcdef", 0.5).save(folder / "label_budget.json"), use_budget),
    "recipe": Target(make_recipe, use_recipe, ("must be", "`")),
    "ablation": Target(make_ablation, lambda folder: ablate.read_config(folder / "ablation.yaml")),
    "student": Target(lambda folder: small_student().save_pretrained(folder / "student"), use_student),
    "onnx": Target(lambda folder: write_student(folder / "onnx"), use_exported),
    "checkpoint": Target(make_checkpoint, use_checkpoint),
}

HOSTILE_NAMES = [
    "../escaped",
    "/absolute",
    "a/b",
    "..",
    ".",
    "",
    "a\x00b",
    "con\nrow",
    "x" * 300,
    "-rf",
    "~",
    "ü",
    "*",
    "<b>",
]


def hostile_rows(names: list[str]) -> datasets.Dataset:
    cells = [{"bytes": encode_png(FRAME), "path": None} for _ in names]
    mask = np.zeros(FRAME.shape, np.uint8)
    mask[3:5, 4:6] = 255
    columns = {
        "name": names,
        "image": cells,
        "mask": [{"bytes": encode_png(mask), "path": None} for _ in names],
        "width": [FRAME.shape[1]] * len(names),
        "height": [FRAME.shape[0]] * len(names),
        "label_source": ["human"] * len(names),
    }
    rows = datasets.Dataset.from_dict(columns)
    return rows.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())
