"""Pseudo labels by `Dataset.map`: a teacher predicts every row, and rules turn its predictions into labels."""

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
from scalpel_hf.data.prepared import check_is_dataset
from scalpel_hf.data.proposals import row_weak_label
from scalpel_hf.data.pseudo_columns import PSEUDO_FEATURES, png
from scalpel_hf.hub.repo_names import shown_name
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.predictors.prediction import Prediction
from scalpel_hf.version import __version__

from .calibration import Calibration
from .evidence import CANDIDATE_FEATURES, extract_candidates
from .output import summarize
from .rules import NO_LABEL, Rules, decide, rules_of

logger = logging.getLogger(__name__)

LABEL_COLUMN = {HUMAN: ("mask",), BOX: ("objects",), POINT: ("objects",)}  # the columns of a person's label
PREDICTION_FEATURES = {
    "pseudo_confidence": datasets.Image(),
    "candidates": CANDIDATE_FEATURES,
    "problem": datasets.Value("string"),
}


def add_pseudo_labels(
    dataset: datasets.Dataset,
    teacher: Any,
    threshold: float | None = None,
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
    Let a teacher label the frames that nobody has labelled.

    The result has the data set's columns and these:

    - `pseudo_mask`: PNG, 0 or 255;
    - `pseudo_confidence`: PNG, the teacher's probability of target in 8 bits, `round(255 · p)`;
    - `pseudo_objects`: `bbox` (x, y, width, height, as in COCO), `area` in pixels and `score`;
    - `pseudo_score`: the highest score in the frame, 0 without objects;
    - `teacher`: repository, revision, fingerprint of the weights, threshold, version of this package.

    `label_source` changes from `none` to `pseudo`. Where the teacher finds nothing but isn't sure that the frame is
    empty, it stays `none`, without mask and objects. Rows that a person labelled keep their label; their new columns
    are empty.

    Args:
        dataset: with `name`, `image`, `label_source`.
        teacher: a `Teacher`, or anything with `fingerprint()` and either `predict(frames) → list[Prediction]` or
            `probabilities(frame) → (H, W)`.
        threshold: a pixel is target where `pseudo_confidence` exceeds it (as a share of 255); by default that of
            `rules`, which is 0.5.
        name, revision: the teacher's repository, for the column `teacher`.
        rules: which objects are accepted; by default all 8-connected components above the threshold.
        calibration: gives objects their scores; by default a score is the teacher's mean probability in the object.
        skip_broken: warn about rows that can't be labelled and leave them as they are, instead of raising.
        batch_size: frames in one call of the teacher.
        keep_in_memory: see `Dataset.map`; by default the result is cached on disk.

    Raises `ValueError` where a frame can't be read or the teacher's prediction for it isn't a map of probabilities (the
    message names the row), and where the teacher finds no acceptable object in any frame.

    Examples:
        >>> from scalpel_hf import SyntheticInfrared, add_pseudo_labels, apply_label_budget
        >>> class BrightPixels:  # in place of a trained `Teacher`
        ...     def fingerprint(self):
        ...         return "brighter than 0.9 of the maximum"
        ...
        ...     def probabilities(self, frame):
        ...         return (frame > 0.9 * frame.max()).astype("float32")
        >>> frames = SyntheticInfrared(size=(64, 64), n_targets=(1, 1)).to_dataset(3)
        >>> frames = apply_label_budget(frames, fraction=0.34)
        >>> labelled = add_pseudo_labels(frames, BrightPixels())
        >>> sorted(labelled["label_source"])
        ['human', 'pseudo', 'pseudo']
    """
    rules = rules_of(rules, threshold)
    check_columns(dataset)
    shown_as, dataset = dataset.format, dataset.with_format(None)
    provenance = provenance_of(teacher, rules=rules, name=name, revision=revision)
    calibration = calibration or Calibration()
    settings = [dataset._fingerprint, provenance, repr(rules), repr(calibration), skip_broken, batch_size]

    def label(batch: dict[str, list]) -> dict[str, list]:
        files = stored_cells(batch, dataset.features)
        predictions = predict_rows({**batch, **files}, teacher, rules.threshold, skip_broken=skip_broken)
        labels = decide_rows(
            {**predictions, "label_source": batch["label_source"]},
            rules=rules,
            calibration=calibration,
            provenance=provenance,
        )
        return {**files, **labels}

    # `label` decodes frame by frame, so that an error can name the row. Frames that people labelled stay encoded.
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
    if shown_as["columns"] == dataset.column_names:
        del shown_as["columns"]  # then the new ones too
    return labelled.with_format(**shown_as.pop("format_kwargs"), **shown_as)


def check_columns(dataset: datasets.Dataset) -> None:
    check_is_dataset(dataset, "label it by `label_in_shards`")
    missing = {"name", "image", "label_source"} - set(dataset.column_names)
    if missing:
        raise ValueError(f"the data set lacks the columns {sorted(missing)}: apply a label budget to it first")
    check_names(dataset["name"][:], "the data set")


def key_of(settings: Any) -> str:
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def provenance_of(teacher: Any, rules: Rules, name: str, revision: str | None) -> dict[str, Any]:
    """The content of the column `teacher`."""
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
    The teacher's predictions for a batch of undecoded rows, as the columns of `PREDICTION_FEATURES`.

    Rows that people labelled are predicted only with `humans_too`, which needs their `mask` or `objects`; otherwise
    their columns are empty. `problem` says why a broken row has no prediction.
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
        columns["candidates"][i] = extract_candidates(
            frame, confidence, prediction=prediction, threshold=threshold, truth=truth
        )
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
    """
    A row's frame `(H, W)` and its label `(H, W)`, `None` where nobody labelled it.

    A mask is read by [`read_mask`]; boxes and points become one by [`WeakLabel.as_mask`]. Raises `ValueError`, which
    names the row, where the frame or the label can't be read or their sizes differ.
    """
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
    """
    A prediction's probabilities as `round(255 · p)`, `(H, W)` uint8.

    Raises `ValueError`, which names the row, where their shape isn't the frame's or they leave [0, 1].
    """
    probability = prediction.probability
    if probability.shape != frame.shape:
        raise ValueError(f"the teacher's prediction for {name} is {probability.shape}, the frame {frame.shape}")
    if not ((probability >= 0) & (probability <= 1)).all():  # false for NaN too
        raise ValueError(f"the teacher's prediction for {name} has values outside 0 to 1, or NaN: check its weights")
    return np.rint(probability * 255).astype(np.uint8)


def decide_rows(
    batch: dict[str, list], rules: Rules, calibration: Calibration | None, provenance: dict[str, Any]
) -> dict[str, list]:
    """
    From the columns of `predict_rows` to those of `PSEUDO_FEATURES`, and `label_source`.

    With `None` as calibration, all frames are left without a label.
    """
    columns: dict[str, list] = {name: [] for name in (*PSEUDO_FEATURES, "label_source")}
    for source, cell, candidates in zip(
        batch["label_source"], batch["pseudo_confidence"], batch["candidates"], strict=True
    ):
        row: dict[str, Any] = {"label_source": source}
        if source not in BY_PEOPLE and candidates is None:
            row["label_source"] = NONE
        elif source not in BY_PEOPLE:
            row |= (
                NO_LABEL
                if calibration is None
                else decide(read_frame(cell), candidates, rules=rules, calibration=calibration)
            )
            row |= {"pseudo_confidence": cell, "teacher": provenance}
        for name, values in columns.items():
            values.append(row.get(name))
    return columns
