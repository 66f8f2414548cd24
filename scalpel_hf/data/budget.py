"""Label budgets: which frames of a training set keep their masks."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Value

from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

from .label_sources import BOX, HUMAN, NONE, POINT
from .names import few
from .prepared import check_is_dataset

MOST_FRAMES = 10**9
LABEL_COLUMNS = ("mask", "objects")


@dataclass(frozen=True)
class LabelBudget:
    """
    The names of the frames that keep their labels, and how they were drawn.

    Args:
        names (`tuple[str, ...]`): of these frames, sorted.
        fraction (`float`): their share of all frames.
        seed (`int`): of the draw.
        total (`int`): number of all frames.
    """

    names: tuple[str, ...]
    fraction: float
    seed: int
    total: int

    @classmethod
    def draw(cls, names: Iterable[str], fraction: float, seed: int = 0) -> "LabelBudget":
        """
        Draw `round(fraction · n)` of `n` names, at least one.

        These are the first names in the order of `SHA-256(seed, name)`. So the draw depends only on the names and the
        seed, and budgets with the same seed are nested: 1 % ⊂ 5 % ⊂ 10 %.

        Raises:
            `ValueError`: if `fraction` is not in (0, 1], there are no names, or one occurs twice.

        Examples:
            >>> LabelBudget.draw([f"frame-{i}" for i in range(20)], fraction=0.1).names
            ('frame-18', 'frame-3')
        """
        pool = sorted(names)
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction must lie in (0, 1], not {fraction}; 10 % is 0.1")
        if not pool or len(set(pool)) < len(pool):
            raise ValueError("a label budget needs names, each once")
        pool.sort(key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
        drawn = pool[: max(1, round(fraction * len(pool)))]
        return cls(names=tuple(sorted(drawn)), fraction=float(fraction), seed=int(seed), total=len(pool))

    def save(self, path: str | Path) -> None:
        """Write to a JSON file, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> "LabelBudget":
        """Read the file of `save`. Raises `ValueError`, which names the file, if it has other content."""
        try:
            content = read_json(path)
            names = content["names"]
            if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
                raise TypeError("names must be a list of strings")
            budget = cls(names=tuple(names), fraction=content["fraction"], seed=content["seed"], total=content["total"])
            if type(budget.fraction) not in (int, float) or not 0 < budget.fraction <= 1:
                raise TypeError(f"fraction must lie in (0, 1], not {budget.fraction!r}")
            if type(budget.seed) is not int or not abs(budget.seed) < 2**63:
                raise TypeError(f"seed must be a whole number of 64 bits, not {budget.seed!r:.40}")
            if type(budget.total) is not int or not len(set(names)) <= budget.total <= MOST_FRAMES:
                raise TypeError(f"total must be from the number of names to {MOST_FRAMES}, not {budget.total!r:.40}")
            return budget
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} isn't a label budget: {type(error).__name__}: {error}") from error


def apply_label_budget(
    dataset: Dataset,
    fraction: float | None = None,
    seed: int = 0,
    *,
    budget: LabelBudget | None = None,
    hide: bool = True,
) -> Dataset:
    """
    Hide the labels of all frames outside a label budget.

    Sets the column `label_source`: for rows in the budget it is `"human"` (or stays `"box"` or `"point"`), for all
    others `"none"`.

    Args:
        dataset (`Dataset`): with the features of [`load_irst_dataset`].
        fraction (`float`, *optional*): draw a budget of this share of the frames, see [`LabelBudget.draw`].
        seed (`int`, defaults to 0): of the draw.
        budget (`LabelBudget`, *optional*): use this budget instead of drawing one.
        hide (`bool`, defaults to `True`): set `mask` and `objects` of the other rows to `None`, so that training can't
            use them. To evaluate pseudo labels, load the full data set again.

    Raises:
        `ValueError`: unless exactly one of `fraction` and `budget` is given, if the budget names frames that the data
            set lacks, or if frames of the budget have no mask, boxes or points (hidden by an earlier, smaller budget).
    """
    if (fraction is None) == (budget is None):
        raise ValueError("give either `fraction` (and `seed`) or `budget`")
    check_is_dataset(dataset)
    names = dataset["name"][:]
    if budget is None:
        assert fraction is not None
        budget = LabelBudget.draw(names, fraction, seed)
    chosen = set(budget.names)
    if missing := sorted(chosen - set(names)):
        raise ValueError(f"the data set lacks {len(missing)} names of the budget: {', '.join(missing[:10])}")
    labels = dataset.select_columns(list(LABEL_COLUMNS)).with_format("arrow")[:]  # the files' bytes, not decoded
    human = [name in chosen for name in names]
    stated = dataset["label_source"][:] if "label_source" in dataset.column_names else [HUMAN] * len(names)
    actual = [_label_of(source, labels, i) for i, source in enumerate(stated)]
    if hidden := [name for name, row, label in zip(names, human, actual, strict=True) if row and label == NONE]:
        raise ValueError(
            f"{len(hidden)} frames of the budget have no label: {few(hidden)}. A budget is for a data set of which all "
            "frames are labelled: load the full set again, or use the labels that there are, without a budget"
        )

    features = dict(dataset.features)
    order = [column for column in dataset.column_names if column != "label_source"] + ["label_source"]
    sources = [label if row else NONE for row, label in zip(human, actual, strict=True)]
    columns: dict[str, object] = {"label_source": sources}
    features["label_source"] = Value("string")
    if hide:
        kept = [index if row else None for index, row in enumerate(human)]
        columns |= {column: labels.column(column).take(kept) for column in LABEL_COLUMNS}  # null where hidden
    for column, values in columns.items():
        if column in dataset.column_names:
            dataset = dataset.remove_columns(column)
        dataset = dataset.add_column(column, values, feature=features[column])
    return dataset.select_columns(order)


def _label_of(stated: str, labels: pa.Table, row: int) -> str:
    """The `label_source` of a row in the budget: `box` or `point` as stated, `human` with a mask, else `none`."""
    if stated in (BOX, POINT):
        return stated if labels.column("objects")[row].is_valid else NONE
    return HUMAN if labels.column("mask")[row].is_valid else NONE
