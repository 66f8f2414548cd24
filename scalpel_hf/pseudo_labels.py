"""A teacher's labels as columns of a data set, beside the human ones and never in their place."""

import hashlib
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image
from scipy import ndimage

from .data import objects_from_mask
from .modeling.image_processing_infrared import read_frame

logger = logging.getLogger(__name__)

Probabilities = Callable[[Any], np.ndarray]

KEY_FILE = "pseudo_labels.json"  # in a finished folder: which settings it was made with
PSEUDO_FEATURES = {
    "pseudo_mask": datasets.Image(),
    "pseudo_confidence": datasets.Image(),
    "pseudo_objects": {
        "bbox": datasets.List(datasets.List(datasets.Value("float32"))),
        "area": datasets.List(datasets.Value("float32")),
        "score": datasets.List(datasets.Value("float32")),
    },
    "pseudo_score": datasets.Value("float32"),
    "teacher": datasets.Value("string"),
}


def add_pseudo_labels(
    dataset: datasets.Dataset,
    teacher: Any,
    threshold: float = 0.5,
    name: str = "",
    batch_size: int = 8,
    keep_in_memory: bool = False,
) -> datasets.Dataset:
    """
    Label the frames that no human has labelled.

    Adds `pseudo_mask` (0/255, PNG), `pseudo_confidence` (the probability in 8 bits, PNG), `pseudo_objects` (bbox in
    COCO's x, y, w, h, area in pixels, score), `pseudo_score` and `teacher` (name, fingerprint, threshold; JSON), and
    sets `label_source` to `pseudo` where it was `none`. Rows with a human's label are passed through untouched, their
    new columns empty. An object's score is the mean probability inside it; an image's is its best object's, 0 without
    any.

    Args:
        dataset: with `name`, `image`, `label_source`.
        teacher: a `Teacher`, or anything with `probabilities(frame) → (H, W)` and `fingerprint()`.
        threshold: probability above which a pixel is target.
        name: how the teacher is called in the `teacher` column.
        keep_in_memory: as of `Dataset.map`; otherwise the result is cached beside the data set's files.

    Raises `ValueError` naming the row where a frame can't be read or the teacher's answer isn't probabilities.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"the threshold is a probability between 0 and 1, got {threshold}")
    missing = {"name", "image", "label_source"} - set(dataset.column_names)
    if missing:
        raise ValueError(f"the data set lacks the columns {sorted(missing)}: apply a label budget to it first")
    fingerprint = teacher.fingerprint()
    provenance = json.dumps({"name": name, "fingerprint": fingerprint, "threshold": threshold}, sort_keys=True)
    features = datasets.Features({**dataset.features, **PSEUDO_FEATURES})
    key = hashlib.sha256(f"{dataset._fingerprint} {provenance}".encode()).hexdigest()[:16]

    def label(batch: dict[str, list]) -> dict[str, list]:
        columns: dict[str, list] = {column: [] for column in PSEUDO_FEATURES}
        sources = []
        for row_name, image, source in zip(batch["name"], batch["image"], batch["label_source"], strict=True):
            row = _empty() if source == "human" else _label_one(image, row_name, teacher.probabilities, threshold)
            row["teacher"] = None if source == "human" else provenance
            sources.append(source if source == "human" else "pseudo")
            for column, value in row.items():
                columns[column].append(value)
        return {**columns, "label_source": sources}

    # Decoded here, row by row, so that an error can name its row; a human's rows are not decoded at all.
    return dataset.cast_column("image", datasets.Image(decode=False)).map(
        label,
        batched=True,
        batch_size=batch_size,
        features=features,
        new_fingerprint=key,
        keep_in_memory=keep_in_memory,
        desc="pseudo labels",
    )


def _empty() -> dict[str, Any]:
    return dict.fromkeys(PSEUDO_FEATURES)


def _label_one(image: Any, name: str, probabilities: Probabilities, threshold: float) -> dict[str, Any]:
    try:
        frame = read_frame(image)
        probability = probabilities(frame)
    except (OSError, ValueError) as error:
        raise ValueError(f"can't label {name}: {error}") from error
    if probability.shape != frame.shape:
        raise ValueError(f"the teacher's answer for {name} is {probability.shape}, the frame {frame.shape}")
    if not ((probability >= 0) & (probability <= 1)).all():  # false for NaN too
        raise ValueError(f"the teacher's answer for {name} has values that are no probabilities: check its weights")
    mask = probability > threshold
    objects = objects_from_mask(mask)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    scores = ndimage.mean(probability, labels, range(1, count + 1)) if count else []
    return {
        "pseudo_mask": _png(mask.astype(np.uint8) * 255),
        "pseudo_confidence": _png(np.rint(probability * 255).astype(np.uint8)),
        "pseudo_objects": {"bbox": objects["bbox"], "area": objects["area"], "score": [float(s) for s in scores]},
        "pseudo_score": float(max(scores, default=0.0)),
    }


def _png(array: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def training_mask(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """
    The label of a row that counts, as target and weight `(H, W)` float32; `None` where there is none.

    A human's mask weighs 1 everywhere. A pseudo label's pixel weighs its confidence, |2p − 1|: a pixel about which the
    teacher is undecided is left out.
    """
    if row["label_source"] == "human":
        if row["mask"] is None:
            raise ValueError(f"{row.get('name')}: `label_source` is human, but there is no mask")
        target = (read_frame(row["mask"]) > 127).astype(np.float32)
        return target, np.ones_like(target)
    if row["label_source"] == "pseudo":
        probability = read_frame(row["pseudo_confidence"]).astype(np.float32) / 255
        target = (read_frame(row["pseudo_mask"]) > 127).astype(np.float32)
        return target, np.abs(2 * probability - 1)
    return None


def label_in_shards(
    dataset: datasets.Dataset,
    teacher: Any,
    out: str | Path,
    threshold: float = 0.5,
    name: str = "",
    shard_size: int = 64,
    report: Callable[[str], None] = print,
) -> datasets.Dataset:
    """
    `add_pseudo_labels`, saved to `out` shard by shard: a run that was killed goes on from its last finished shard.

    The work lies in `out + ".partial"`, under a key made of the data set, the teacher, its name, the threshold and the
    shards' size, until all of it is done; finished shards of other settings are not used. A finished `out` of the same
    settings is returned as it is, of others replaced.

    Raises `ValueError` for a data set without rows, where every pseudo label is empty, and where `out` is a folder that
    this function didn't make, which is left alone.
    """
    out = Path(out)
    if not len(dataset):
        raise ValueError("the data set has no rows to label")
    settings = [dataset._fingerprint, teacher.fingerprint(), name, threshold, shard_size]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    if out.exists() and not (out / KEY_FILE).is_file():
        raise ValueError(f"{out} exists and holds no pseudo labels: choose another folder, or remove it")
    if out.exists() and json.loads((out / KEY_FILE).read_text())["key"] == key:
        report(f"{out} has these pseudo labels already")
        return datasets.load_from_disk(str(out))
    work = out.with_name(out.name + ".partial") / key
    work.mkdir(parents=True, exist_ok=True)
    count = -(-len(dataset) // shard_size)
    began, done = time.monotonic(), 0
    for index in range(count):
        folder = work / f"{index:05d}"
        if folder.exists():
            continue
        rows = dataset.select(range(index * shard_size, min((index + 1) * shard_size, len(dataset))))
        temporary = folder.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        add_pseudo_labels(rows, teacher, threshold, name, keep_in_memory=True).save_to_disk(str(temporary))
        os.replace(temporary, folder)
        done += len(rows)
        rate = done / (time.monotonic() - began)
        report(f"shard {index + 1}/{count}: {rate:.1f} images/s, {(count - index - 1) * shard_size / rate:.0f} s to go")
    labelled = datasets.concatenate_datasets([datasets.load_from_disk(str(work / f"{i:05d}")) for i in range(count)])
    summary = summarize(labelled)
    if summary["pseudo"] and summary["empty"] == summary["pseudo"]:
        raise ValueError(
            f"all {summary['pseudo']} pseudo labels are empty: the teacher finds nothing at threshold {threshold}. "
            "Check that it was trained, and on frames like these"
        )
    final, old = work / "all", work / "old"
    shutil.rmtree(final, ignore_errors=True)
    labelled.save_to_disk(str(final))
    (final / KEY_FILE).write_text(json.dumps({"key": key, "teacher": name, "threshold": threshold}) + "\n")
    if out.exists():
        os.replace(out, old)
    os.replace(final, out)
    shutil.rmtree(work.parent)
    return datasets.load_from_disk(str(out))


def summarize(dataset: datasets.Dataset) -> dict[str, Any]:
    """How many rows have a human's, a pseudo or no label, how many pseudo labels have 0, 1, more objects, and the
    quartiles of their objects' areas in pixels."""
    columns = dataset.select_columns(["label_source", "pseudo_objects"])
    sources: dict[str, int] = {"human": 0, "pseudo": 0, "none": 0}
    counts, areas = [], []
    for row in columns:
        sources[row["label_source"]] += 1
        if row["label_source"] == "pseudo":
            counts.append(len(row["pseudo_objects"]["area"]))
            areas += row["pseudo_objects"]["area"]
    quartiles = [float(q) for q in np.percentile(areas, [0, 25, 50, 75, 100])] if areas else []
    return {
        **sources,
        "empty": sum(c == 0 for c in counts),
        "one": sum(c == 1 for c in counts),
        "many": sum(c > 1 for c in counts),
        "area_quartiles": quartiles,
    }
