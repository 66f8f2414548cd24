"""The map steps: a teacher's predictions for the rows of a data set, and the labels that are made of them."""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from scalpel_hf.data.image_cells import stored_cells, undecoded
from scalpel_hf.data.label_sources import BOX, BY_PEOPLE, HUMAN, NONE, POINT
from scalpel_hf.data.masks import read_mask
from scalpel_hf.data.names import check_names
from scalpel_hf.data.proposals import row_weak_label
from scalpel_hf.hub.repo_names import shown_name
from scalpel_hf.modeling.image_processing_infrared import read_frame
from scalpel_hf.predictors.prediction import Prediction
from scalpel_hf.version import __version__

from .calibration import Calibration
from .columns import PSEUDO_FEATURES, png
from .evidence import CANDIDATE_FEATURES, extract_candidates
from .output import summarize
from .rules import NO_LABEL, Rules, decide

logger = logging.getLogger(__name__)

LABEL_COLUMN = {HUMAN: ("mask",), BOX: ("objects",), POINT: ("objects",)}  # which holds it, by `label_source`
PREDICTION_FEATURES = {
    "pseudo_confidence": datasets.Image(),
    "candidates": CANDIDATE_FEATURES,
    "problem": datasets.Value("string"),
}


def add_pseudo_labels(
    dataset: datasets.Dataset,
    teacher: Any,
    threshold: float = 0.5,
    name: str = "",
    *,
    revision: str | None = None,
    rules: Rules | None = None,
    calibration: Calibration | None = None,
    skip_broken: bool = False,
    batch_size: int = 8,
    keep_in_memory: bool = False,
) -> datasets.Dataset:
    """
    Label the frames that no human has labelled.

    Adds `pseudo_mask` (0/255, PNG), `pseudo_confidence` (the probability in 8 bits, PNG), `pseudo_objects` (bbox in
    COCO's x, y, w, h, area in pixels, score), `pseudo_score` (the best object's, 0 without any) and `teacher` (repo,
    revision, fingerprint, threshold, version of this package), and sets `label_source` to `pseudo` where it was `none`.
    It stays `none`, without mask and objects, where the teacher sees nothing but isn't sure that there is nothing. Rows
    with a human's label are passed through untouched, their new columns empty.

    Args:
        dataset: with `name`, `image`, `label_source`.
        teacher: a `Teacher`, or anything with `fingerprint()` and either `predict(frames) → list[Prediction]` or
            `probabilities(frame) → (H, W)`.
        threshold: probability above which a pixel is target; the confidence in 8 bits is what is compared.
        name, revision: what the `teacher` column says about where the teacher is.
        rules: which objects count; by default each component above the threshold.
        calibration: what a score is; by default the teacher's mean probability inside the object.
        skip_broken: leave rows that can't be labelled as they are, with a warning, instead of raising.
        batch_size: frames that the teacher is given at a time.
        keep_in_memory: as of `Dataset.map`; otherwise the result is cached beside the data set's files.

    Raises `ValueError` naming the row where a frame can't be read or the teacher's prediction isn't probabilities, and
    where no frame that it was asked about gets an object.
    """
    rules = rules or Rules(threshold)
    if rules.threshold != threshold:
        raise ValueError(f"the rules' threshold is {rules.threshold}, not {threshold}: give it once")
    check_columns(dataset)
    provenance = provenance_of(teacher, rules, name, revision)
    calibration = calibration or Calibration()
    settings = [dataset._fingerprint, provenance, repr(rules), repr(calibration), skip_broken, batch_size]

    def label(batch: dict[str, list]) -> dict[str, list]:
        files = stored_cells(batch, dataset.features)
        predictions = predict_rows({**batch, **files}, teacher, threshold, skip_broken=skip_broken)
        labels = decide_rows({**predictions, "label_source": batch["label_source"]}, rules, calibration, provenance)
        return {**files, **labels}

    # Decoded here, row by row, so that an error can name its row; a human's frames are not decoded at all.
    labelled = undecoded(dataset).map(
        label,
        batched=True,
        batch_size=batch_size,
        features=datasets.Features({**dataset.features, **PSEUDO_FEATURES}),
        new_fingerprint=key_of(settings),
        keep_in_memory=keep_in_memory,
        desc="pseudo labels",
    )
    summary = summarize(labelled)
    asked = summary["pseudo"] + summary["unsure"]
    if asked and not summary["objects"]:
        raise ValueError(f"all {asked} pseudo labels are empty: the teacher finds nothing that is accepted by {rules}")
    return labelled


def check_columns(dataset: datasets.Dataset) -> None:
    missing = {"name", "image", "label_source"} - set(dataset.column_names)
    if missing:
        raise ValueError(f"the data set lacks the columns {sorted(missing)}: apply a label budget to it first")
    check_names(dataset["name"][:], "the data set")


def key_of(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def provenance_of(teacher: Any, rules: Rules, name: str, revision: str | None) -> dict[str, Any]:
    """What the `teacher` column says."""
    return {
        "repo": shown_name(name),
        "revision": revision,
        "fingerprint": teacher.fingerprint(),
        "threshold": rules.threshold,
        "version": __version__,
    }


def predict_rows(
    batch: dict[str, list], teacher: Any, threshold: float, humans_too: bool = False, skip_broken: bool = False
) -> dict[str, list]:
    """
    The teacher's predictions for undecoded rows: the columns of `PREDICTION_FEATURES`.

    Those of rows that people labelled are empty but with `humans_too`, which needs their `mask` or `objects`.
    `problem` says why a broken row has no prediction.
    """
    columns: dict[str, list] = {name: [None] * len(batch["name"]) for name in PREDICTION_FEATURES}
    pairs: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}  # frame and, where a human labelled it, mask
    for i, source in enumerate(batch["label_source"]):
        if source not in BY_PEOPLE or humans_too:
            wanted = ["name", "image", "label_source", *LABEL_COLUMN.get(source, ())]
            try:
                pairs[i] = read_pair({column: batch[column][i] for column in wanted})
            except ValueError as error:
                columns["problem"][i] = str(error)
    for i, prediction in zip(pairs, predict(teacher, [frame for frame, _ in pairs.values()]), strict=True):
        frame, truth = pairs[i]
        try:
            confidence = confidence_of(prediction, frame, batch["name"][i])
        except ValueError as error:
            columns["problem"][i] = str(error)
            continue
        columns["pseudo_confidence"][i] = png(confidence)
        columns["candidates"][i] = extract_candidates(frame, confidence, prediction, threshold, truth)
    for problem in filter(None, columns["problem"]):
        if not skip_broken:
            raise ValueError(problem)
        logger.warning("skipped: %s", problem)
    return columns


def predict(teacher: Any, frames: Sequence[np.ndarray]) -> list[Prediction]:
    if hasattr(teacher, "predict"):
        return teacher.predict(frames)
    return [Prediction(teacher.probabilities(frame)) for frame in frames]


def read_pair(row: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """A row's frame `(H, W)` and, where a person labelled it, the mask as [`read_mask`] reads it, of the same size, or
    what [`WeakLabel.as_mask`] makes of boxes and points; `ValueError` naming the row where either can't be read."""
    try:
        frame, truth = read_frame(row["image"]), None
        if row["label_source"] in (BOX, POINT):
            truth = row_weak_label(row, frame).as_mask()
        elif row["label_source"] == HUMAN:
            if row["mask"] is None:
                raise ValueError("`label_source` is human, but there is no mask")
            truth = read_mask(row["mask"])
            if truth.shape != frame.shape:
                raise ValueError(f"the mask is {truth.shape}, the frame {frame.shape}")
    except (OSError, ValueError) as error:
        raise ValueError(f"can't label {row['name']}: {error}") from error
    return frame, truth


def confidence_of(prediction: Prediction, frame: np.ndarray, name: str) -> np.ndarray:
    """The probability in 8 bits; `ValueError` naming the row where it isn't one for each pixel of the frame."""
    probability = prediction.probability
    if probability.shape != frame.shape:
        raise ValueError(f"the teacher's prediction for {name} is {probability.shape}, the frame {frame.shape}")
    if not ((probability >= 0) & (probability <= 1)).all():  # false for NaN too
        raise ValueError(f"the teacher's prediction for {name} has values that are no probabilities: check its weights")
    return np.rint(probability * 255).astype(np.uint8)


def decide_rows(
    batch: dict[str, list], rules: Rules, calibration: Calibration | None, provenance: dict[str, Any]
) -> dict[str, list]:
    """The columns of `PSEUDO_FEATURES`, and `label_source`, from those of `predict_rows`; `None` as calibration leaves
    all frames without a label."""
    columns: dict[str, list] = {name: [] for name in (*PSEUDO_FEATURES, "label_source")}
    for source, cell, candidates in zip(
        batch["label_source"], batch["pseudo_confidence"], batch["candidates"], strict=True
    ):
        row: dict[str, Any] = {"label_source": source}
        if source not in BY_PEOPLE and candidates is None:
            row["label_source"] = NONE
        elif source not in BY_PEOPLE:
            row |= NO_LABEL if calibration is None else decide(read_frame(cell), candidates, rules, calibration)
            row |= {"pseudo_confidence": cell, "teacher": provenance}
        for name, values in columns.items():
            values.append(row.get(name))
    return columns
