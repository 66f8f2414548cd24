"""Active learning: which frames to label next. Those that represent many others, and on which a teacher is unsure.

Notable:
- frames are compared by Segment Anything's frozen embeddings and the operators' prior maps. No mask is read.
- plans with the same seed are nested: the first 17 frames of a plan of 34 are the plan of 17.
- a plan depends on the frames, the seed and the models, not on the order of rows.
"""

import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from scipy.spatial.distance import cdist
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from scalpel_hf.adapter.families import family_of, input_size, sam_input, tensors_of
from scalpel_hf.data import LabelBudget, read_frame
from scalpel_hf.data.label_sources import BY_PEOPLE
from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.modeling.moe import PriorPyramid

POOL = 5000  # most unlabelled frames that are considered: their distances to each other take 200 MB
SUSPECTED = 0.1  # lowest probability of a pixel that may be target
CERTAIN_WEIGHT = 0.1  # of a frame of which the teacher is certain; the most uncertain weighs 1 more


@dataclass(frozen=True)
class Pick:
    """
    A frame to label.

    Args:
        name: of the frame.
        stands_for: number of frames, itself included, to which it is the nearest of all labelled and planned frames.
        uncertainty: the teacher's, see [`mask_uncertainty`]; `None` without a teacher.
    """

    name: str
    stands_for: int
    uncertainty: float | None


@dataclass(frozen=True)
class LabelPlan:
    """
    The frames to label next.

    Args:
        picks: these frames, in the order in which to label them.
        budget: the frames that have a label and the picks, for `apply_label_budget`.
    """

    picks: tuple[Pick, ...]
    budget: LabelBudget


def candidates(dataset: datasets.Dataset, seed: int = 0) -> datasets.Dataset:
    """
    The rows that a plan considers: those that people labelled, then at most 5000 others in the order of
    `SHA-256(seed, name)`. Among equally good frames a plan takes the first in this order.

    Raises `ValueError` if a column is missing or a name occurs twice.
    """
    if missing := {"name", "image", "label_source"} - set(dataset.column_names):
        raise ValueError(f"the data set lacks the columns {sorted(missing)}: prepare it with `scalpel-hf prepare`")
    names, sources = dataset["name"][:], dataset["label_source"][:]
    if len(set(names)) < len(names):
        raise ValueError("names occur more than once: a plan needs a different name for each frame")
    order = sorted(range(len(names)), key=lambda i: (sources[i] not in BY_PEOPLE, _random_key(seed, names[i])))
    return dataset.select(order[: sum(source in BY_PEOPLE for source in sources) + POOL])


def check_budget(rows: datasets.Dataset, budget: int) -> int:
    """The number of rows that people labelled; `ValueError` if a budget isn't above it, or exceeds that of all rows."""
    labelled = sum(source in BY_PEOPLE for source in rows["label_source"])
    if not labelled < budget <= len(rows):
        raise ValueError(
            f"{labelled} of {len(rows)} frames have a label: the budget must be above that and at most {len(rows)}, "
            f"got {budget}"
        )
    return labelled


def plan_labels(
    rows: datasets.Dataset,
    features: np.ndarray,
    budget: int,
    uncertainty: np.ndarray | None = None,
    seed: int = 0,
    total: int | None = None,
) -> LabelPlan:
    """
    Plan which frames to label, up to a budget. Frames that people labelled count towards it.

    Args:
        rows: from [`candidates`].
        features: of each row, `(n, d)`, from [`describe_frames`].
        budget: number of frames that will have a label in the end.
        uncertainty: of each row, `(n,)`, from [`teacher_uncertainty`].
        seed: the one given to `candidates`; it is recorded in the plan's budget.
        total: number of frames of the data set, if `rows` are a part of it.

    Raises `ValueError` if the budget isn't above the number of labelled frames, or exceeds the number of rows.
    """
    names, labelled = rows["name"][:], check_budget(rows, budget)
    chosen = choose(features, count=budget - labelled, chosen=range(labelled), uncertainty=uncertainty)
    human = [*range(labelled), *chosen]
    stands_for = np.bincount(cdist(features, features[human]).argmin(1), minlength=budget)[labelled:].tolist()
    unsure = [None if uncertainty is None else float(uncertainty[row]) for row in chosen]
    picks = tuple(Pick(names[row], n, u) for row, n, u in zip(chosen, stands_for, unsure, strict=True))
    total = len(names) if total is None else total
    drawn = tuple(sorted(names[row] for row in human))
    return LabelPlan(picks, LabelBudget(names=drawn, fraction=budget / total, seed=seed, total=total))


def choose(
    features: np.ndarray, count: int, chosen: Sequence[int] = (), uncertainty: np.ndarray | None = None
) -> list[int]:
    r"""
    Greedy facility location: choose `count` rows such that every row is near a chosen one.

    Each step takes the row j with the highest gain

    \((0.1 + u_j) \sum_i \max(0, \min_{c} d_{ic} - d_{ij})\)

    where d are Euclidean distances and c runs over the rows chosen so far; before the first, the minimum is replaced by
    the highest distance. Among equals the first row is taken. Without u, the greedy choice covers at least 1 − 1/e of
    what the best one does (Nemhauser, Wolsey, Fisher: An analysis of approximations for maximizing submodular set
    functions, 1978). Gains only shrink, so most needn't be computed again in each step (Minoux: Accelerated greedy
    algorithms, 1978).

    Args:
        features: `(n, d)`.
        count: number of rows to choose.
        chosen: rows that are already chosen.
        uncertainty: u, `(n,)` in [0, 1]; without it the factor is 1.

    Returns the rows in the order in which they were chosen.

    Examples:
        >>> choose(np.array([[0.0], [0.1], [0.2], [5.0]]), count=2)
        [1, 3]
    """
    distances = cdist(features, features)
    weights = np.ones(len(features)) if uncertainty is None else CERTAIN_WEIGHT + uncertainty
    nearest = distances[:, list(chosen)].min(1) if len(chosen) else np.full(len(features), distances.max())

    def gain(row: int) -> float:
        return float(weights[row] * np.maximum(0, nearest - distances[row]).sum())

    queue = [(-gain(row), row) for row in range(len(features)) if row not in set(chosen)]
    heapq.heapify(queue)
    taken: list[int] = []
    while len(taken) < count:
        _, row = heapq.heappop(queue)
        entry = (-gain(row), row)
        if queue and entry > queue[0]:
            heapq.heappush(queue, entry)  # its gain has shrunk below that of another row
            continue
        taken.append(row)
        nearest = np.minimum(nearest, distances[row])
    return taken


@torch.no_grad()
def describe_frames(dataset: datasets.Dataset, sam: PreTrainedModel) -> np.ndarray:
    """
    A feature vector of each frame, `(n, d)`: SAM's image embedding averaged over the frame, and of each operator's
    responses (at initial parameters) the logarithms of their mean magnitude and of 1 + maximum / mean.

    Columns are standardised over the frames, and scaled so that both parts contribute equally to Euclidean distances.

    Args:
        dataset: with `name` and `image`.
        sam: a Segment Anything model.

    Raises `ValueError`, which names the frame, if a frame can't be read.
    """
    device = next(sam.parameters()).device
    processor, family = InfraredImageProcessor(**sam_input(sam)), family_of(sam)
    pyramid = PriorPyramid(OPERATOR_SCALES).eval().to(device)
    embeddings, statistics = [], []
    for name, frame in _frames(dataset, "embedding"):
        try:
            inputs = processor(frame, return_tensors="pt").to(device)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        asked = family.ask(sam.get_image_embeddings(inputs["pixel_values"]))
        *_, embedding = tensors_of(asked["image_embeddings"])  # (1, C, S / 16, S / 16)
        stride = input_size(sam) // embedding.shape[-1]
        width, height = (-(-inputs["frame_boxes"][0, 2:] // stride)).int().tolist()
        embeddings.append(embedding[0, :, :height, :width].mean((1, 2)).double().cpu().numpy())
        statistics.append(pyramid(inputs["frames"])[1].flatten().double().cpu().numpy())
    return np.concatenate([_standardised(np.stack(part)) for part in (embeddings, statistics)], 1)


def mask_uncertainty(probability: np.ndarray) -> float:
    r"""
    A teacher's uncertainty about a frame, in [0, 1): \(\sum 4p(1-p) / (n + 1)\) over the n pixels with p ≥ 0.1.

    With n + 1 instead of n, one uncertain pixel counts less than a whole uncertain target. 0 if no pixel reaches 0.1.

    Args:
        probability: `(H, W)` in [0, 1].

    Examples:
        >>> mask_uncertainty(np.array([[0.5, 0.0]])), mask_uncertainty(np.full((2, 2), 0.5))
        (0.5, 0.8)
    """
    suspected = probability[probability >= SUSPECTED].astype(np.float64)
    return float((4 * suspected * (1 - suspected)).sum() / (suspected.size + 1))


def teacher_uncertainty(dataset: datasets.Dataset, teacher: Any = None) -> np.ndarray | None:
    """
    [`mask_uncertainty`] of each row, `(n,)`; 0 for rows that people labelled.

    Without a teacher it is computed from the column `pseudo_confidence`; `None` if an unlabelled row lacks that.
    """
    human = [source in BY_PEOPLE for source in dataset["label_source"]]
    if teacher is not None:
        return np.array(
            [
                0.0 if labelled else mask_uncertainty(teacher.probabilities(frame))
                for labelled, (_, frame) in zip(human, _frames(dataset, "uncertainty"), strict=True)
            ]
        )
    if "pseudo_confidence" not in dataset.column_names:
        return None
    column = dataset.select_columns("pseudo_confidence").cast_column("pseudo_confidence", datasets.Image(decode=False))
    cells = [row["pseudo_confidence"] for row in column]
    if any(cell is None and not labelled for cell, labelled in zip(cells, human, strict=True)):
        return None
    return np.array(
        [
            0.0 if labelled else mask_uncertainty(read_frame(cell) / 255)
            for labelled, cell in zip(human, cells, strict=True)
        ]
    )


def _frames(dataset: datasets.Dataset, what: str) -> Any:
    """Name and pixels of each row, with a progress bar; other columns are not read."""
    rows = dataset.select_columns(["name", "image"]).cast_column("image", datasets.Image(decode=False))
    for row in tqdm(rows, desc=what, unit="frame", leave=False):
        try:
            frame = read_frame(row["image"])
        except (OSError, ValueError) as error:
            raise ValueError(f"{row['name']}: {error}") from error
        yield row["name"], frame


def _random_key(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Columns standardised (constant ones are 0), divided by the square root of the number of varying ones."""
    spread = columns.std(0)
    varies = spread > 1e-9 * (np.abs(columns).max(0) + 1e-30)
    standard = (columns - columns.mean(0)) / np.where(varies, spread, np.inf)
    return standard / np.sqrt(max(1, varies.sum()))
