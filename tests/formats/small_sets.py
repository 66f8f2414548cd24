"""Small labelled data sets, row by row."""

from typing import Any

import datasets
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np

from scalpel_hf.data.objects import encode_png, objects_from_mask
from scalpel_hf.data.rows import FEATURES
from scalpel_hf.formats.export_rows import Frame
from scalpel_hf.pseudo_labels import PSEUDO_FEATURES

TEACHER = {"repo": "org/teacher", "revision": None, "fingerprint": "f00", "threshold": 0.5, "version": "0"}
SHAPE = (20, 24)


def row(
    name: str,
    mask: np.ndarray | None,
    source: str,
    image: bytes | None = None,
    suffix: str = ".png",
    ignored: np.ndarray | None = None,
) -> dict[str, Any]:
    """A row whose human or teacher says `mask`; a teacher's targets have the scores 0.9, 0.8, …"""
    shape = SHAPE if mask is None else mask.shape
    content = image or encode_png(np.random.default_rng(len(name)).integers(0, 255, shape, np.uint8))
    cells: dict[str, Any] = dict.fromkeys([*FEATURES, *PSEUDO_FEATURES])
    cells |= {"name": name, "image": {"bytes": content, "path": f"{name}{suffix}"}, "label_source": source}
    cells |= {"width": shape[1], "height": shape[0]}
    if mask is None:
        return cells
    png, objects = {"bytes": encode_png(mask.astype(np.uint8) * 255), "path": None}, objects_from_mask(mask)
    if source == "human":
        return cells | {"mask": png, "objects": objects}
    confidence = np.where(mask if ignored is None else mask | ignored, 230, 5).astype(np.uint8)
    scores = [max(0.1, 0.9 - 0.1 * i) for i in range(len(objects["area"]))]
    return cells | {
        "pseudo_mask": png,
        "pseudo_confidence": {"bytes": encode_png(confidence), "path": None},
        "pseudo_objects": {"bbox": objects["bbox"], "area": objects["area"], "score": scores},
        "pseudo_score": max(scores, default=0.0),
        "teacher": TEACHER,
    }


def labelled(*rows: dict[str, Any]) -> datasets.Dataset:
    features = datasets.Features({**FEATURES, "label_source": datasets.Value("string"), **PSEUDO_FEATURES})
    columns = {column: [cells.get(column) for cells in rows] for column in features}
    return datasets.Dataset.from_dict(columns, features=features)


def draw(*targets: tuple[slice | int, slice | int], shape: tuple[int, int] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for place in targets:
        mask[place] = True
    return mask


# Of a human (h) and a teacher (p): targets of 1 and 2 pixels, in corners too, and pixels that touch diagonally.
TINY = {
    "h1": draw((7, 11)),
    "h2": draw((0, slice(0, 2)), (19, 23)),
    "h-empty": draw(),
    "p1": draw((slice(5, 7), 9), (15, 2)),
    "p2": draw((3, 4), (4, 5), (slice(10, 13), slice(10, 14))),
    "p-empty": draw(),
}


def tiny() -> datasets.Dataset:
    """`TINY`, between two frames without label."""
    rows = [row(name, mask, "human" if name[0] == "h" else "pseudo") for name, mask in TINY.items()]
    return labelled(row("n1", None, "none"), *rows, row("n2", None, "none"))


def raw(dataset: datasets.Dataset, column: str) -> list:
    """A column as it is stored, images not decoded."""
    return dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()


def masks(largest: int = 24) -> st.SearchStrategy[np.ndarray]:
    """Masks of any size and shape: single pixels, blobs, stripes, holes, nothing, everything."""
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=largest)
    return shapes.flatmap(lambda shape: hnp.arrays(bool, shape, elements=st.booleans(), fill=st.booleans()))


def human_frame(mask: np.ndarray) -> Frame:
    """A human's label as exports see it."""
    height, width = mask.shape
    content = encode_png(np.zeros(mask.shape, np.uint8))
    return Frame("f", content, ".png", width, height, "human", mask, np.zeros_like(mask), {}, None)
