"""Which frames to label next: those that stand for the most others, before all where a teacher is unsure.

Notable:
- what is compared are Segment Anything's frozen embeddings and the operators' prior statistics, and, once there is one,
  a teacher's probabilities. No mask is read.
- plans of one seed are nested: the first 17 of a plan of 34 are the plan of 17.
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

POOL = 5000  # frames without label that are compared, each with each: 200 MB of distances
SUSPECTED = 0.1  # probability from which a teacher takes a pixel for a possible target
CERTAIN_SHARE = 0.1  # what a frame counts of which the teacher is certain, beside one of which it knows nothing


@dataclass(frozen=True)
class Pick:
    """
    A frame to label.

    Args:
        name: of the frame.
        stands_for: how many frames are nearer to it, itself included, than to any other with a label, had or planned.
        uncertainty: a teacher's, see [`mask_uncertainty`]; `None` without one.
    """

    name: str
    stands_for: int
    uncertainty: float | None


@dataclass(frozen=True)
class LabelPlan:
    """
    What to label next.

    Args:
        picks: in the order to label them.
        budget: the frames that have a label already and the picks, for `apply_label_budget`.
    """

    picks: tuple[Pick, ...]
    budget: LabelBudget


def candidates(dataset: datasets.Dataset, seed: int = 0) -> datasets.Dataset:
    """
    The rows that a plan considers, in the order that decides between equals: those that a human has labelled, then the
    others in the order of `SHA-256(seed, name)`, at most 5000 of them, so that time and memory stay bounded.

    Raises `ValueError` for missing columns and a name that occurs twice.
    """
    if missing := {"name", "image", "label_source"} - set(dataset.column_names):
        raise ValueError(f"the data set lacks the columns {sorted(missing)}: prepare it with `scalpel-hf prepare`")
    names, sources = dataset["name"][:], dataset["label_source"][:]
    if len(set(names)) < len(names):
        raise ValueError("names occur more than once: a plan needs one name for each frame")
    order = sorted(range(len(names)), key=lambda i: (sources[i] not in BY_PEOPLE, _draw(seed, names[i])))
    return dataset.select(order[: sum(source in BY_PEOPLE for source in sources) + POOL])


def plan_labels(
    rows: datasets.Dataset,
    features: np.ndarray,
    budget: int,
    uncertainty: np.ndarray | None = None,
    seed: int = 0,
    total: int | None = None,
) -> LabelPlan:
    """
    Plan labels up to a budget; what a human has labelled counts as chosen.

    Args:
        rows: from [`candidates`].
        features: of each row, from [`describe_frames`].
        budget: how many frames are to have a label in the end.
        uncertainty: of each row, from [`teacher_uncertainty`].
        seed: that `candidates` was given, for the record.
        total: how many frames the data set has, where `rows` are a part of it.

    Raises `ValueError` for a budget that the labels fill already or that the rows can't.
    """
    names = rows["name"][:]
    labelled = sum(source in BY_PEOPLE for source in rows["label_source"])
    if not labelled < budget <= len(names):
        raise ValueError(f"{labelled} of {len(names)} frames have a label: the budget lies above that, not at {budget}")
    chosen = choose(features, budget - labelled, range(labelled), uncertainty)
    human = [*range(labelled), *chosen]
    stands_for = np.bincount(cdist(features, features[human]).argmin(1), minlength=budget)[labelled:].tolist()
    unsure = [None if uncertainty is None else float(uncertainty[row]) for row in chosen]
    picks = tuple(Pick(names[row], n, u) for row, n, u in zip(chosen, stands_for, unsure, strict=True))
    total = len(names) if total is None else total
    return LabelPlan(picks, LabelBudget(tuple(sorted(names[row] for row in human)), budget / total, seed, total))


def choose(
    features: np.ndarray, count: int, chosen: Sequence[int] = (), uncertainty: np.ndarray | None = None
) -> list[int]:
    r"""
    Greedy facility location: `count` rows after which every row has a chosen one near.

    Each step takes the row j of the greatest

    \((0.1 + u_j) \sum_i \max(0, \min_{c} d_{ic} - d_{ij})\)

    with Euclidean distances d and c over what is chosen so far; without any that minimum is the greatest distance. Of
    equals the first row counts. Without u, greedy is within 1 − 1/e of the best coverage (Nemhauser, Wolsey, Fisher: An
    analysis of approximations for maximizing submodular set functions, 1978). Gains only shrink, so a row is looked at
    again only when it may be next (Minoux: Accelerated greedy algorithms, 1978).

    Args:
        features: `(n, d)`.
        chosen: rows that are chosen already.
        uncertainty: u, `(n,)` in [0, 1]; the factor is 1 without it.

    Returns the rows in the order in which they are taken.
    """
    distances = cdist(features, features)
    weights = np.ones(len(features)) if uncertainty is None else CERTAIN_SHARE + uncertainty
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
            heapq.heappush(queue, entry)  # its gain has shrunk, another row may be ahead
            continue
        taken.append(row)
        nearest = np.minimum(nearest, distances[row])
    return taken


@torch.no_grad()
def describe_frames(dataset: datasets.Dataset, sam: PreTrainedModel) -> np.ndarray:
    """
    What frames look like, `(n, d)`: SAM's embedding, averaged over the frame, and the prior pyramid's statistics at the
    operators' initial parameters (spread and peak of each map).

    Every column is standardised over the frames, and both parts are scaled to weigh alike in a Euclidean distance.

    Args:
        dataset: with `name` and `image`.
        sam: a Segment Anything model.

    Raises `ValueError` naming a frame that can't be read.
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
    How unsure a teacher is of its mask, in [0, 1): \(\sum 4p(1-p) / (n + 1)\) over the n pixels with p ≥ 0.1.

    The 1 keeps a single unsure pixel from counting as much as a whole unsure target. 0 where no pixel reaches 0.1.
    """
    suspected = probability[probability >= SUSPECTED].astype(np.float64)
    return float((4 * suspected * (1 - suspected)).sum() / (suspected.size + 1))


def teacher_uncertainty(dataset: datasets.Dataset, teacher: Any = None) -> np.ndarray | None:
    """
    [`mask_uncertainty`] of every row, `(n,)`; 0 where a person labelled it.

    Without a teacher it is that of the column `pseudo_confidence`; `None` where some row lacks that too.
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
    """Name and pixels of every row; no other column is read."""
    rows = dataset.select_columns(["name", "image"]).cast_column("image", datasets.Image(decode=False))
    for row in tqdm(rows, desc=what, unit="frame", leave=False):
        try:
            frame = read_frame(row["image"])
        except (OSError, ValueError) as error:
            raise ValueError(f"{row['name']}: {error}") from error
        yield row["name"], frame


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()


def _standardised(columns: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and standard deviation 1, constant ones 0, over the square root of how many vary."""
    spread = columns.std(0)
    varies = spread > 1e-9 * (np.abs(columns).max(0) + 1e-30)
    standard = (columns - columns.mean(0)) / np.where(varies, spread, np.inf)
    return standard / np.sqrt(max(1, varies.sum()))
