"""Data set cards for the Hub, from the template dataset_card.md and counts of the data set."""

from collections import Counter
from typing import Any

import datasets
from huggingface_hub import DatasetCard, DatasetCardData

from scalpel_hf.data import LabelBudget
from scalpel_hf.data.label_sources import BY_PEOPLE, NONE, PSEUDO
from scalpel_hf.pseudo_labels import summarize

from .card_parts import PROJECT_TAGS, render
from .repo_names import shown_name


def dataset_card(
    splits: datasets.DatasetDict,
    repo_id: str,
    license: str = "other",
    budget: LabelBudget | None = None,
    run: dict[str, Any] | None = None,
    picture: bool = False,
) -> DatasetCard:
    """
    The card of a data set with people's labels, and pseudo labels if there are any.

    Args:
        splits: the data set.
        repo_id: `org/name` that the card is for.
        license: of images and people's labels, as the Hub names it, such as `cc-by-4.0`.
        budget: how the frames that people labelled were drawn.
        run: record of the run that made the pseudo labels, from [`read_run`].
        picture: whether the picture `PICTURE` is pushed too.
    """
    name = repo_id.split("/")[-1]
    labelled = [rows for rows in splits.values() if "pseudo_mask" in rows.column_names]
    files = [{"split": str(split), "path": f"data/{split}-*"} for split in splits]
    extra: dict[str, Any] = {}
    if budget is not None:
        drawn = {"fraction": budget.fraction, "seed": budget.seed, "total": budget.total}
        extra["label_budget"] = {**drawn, "labelled": len(budget.names)}
    data = DatasetCardData(
        license=license,
        task_categories=["image-segmentation"],
        pretty_name=name,
        tags=[*PROJECT_TAGS, *(["pseudo-labels"] if labelled else [])],
        configs=[{"config_name": "default", "data_files": files}],
        **extra,
    )
    return render(
        DatasetCard,
        "dataset_card.md",
        data=data,
        picture=picture,
        name=name,
        repo_id=repo_id,
        license=license,
        first_split=next(iter(splits)),
        counts=[row for split, rows in splits.items() for row in _counts(split, rows)],
        teachers=_teachers(labelled) if labelled else None,
        budget=budget,
        run=run,
    )


def _counts(split: str, rows: datasets.Dataset) -> list[dict[str, Any]]:
    """The number of a split's frames with each `label_source`."""
    sources = Counter(rows["label_source"] if "label_source" in rows.column_names else ["human"] * len(rows))
    return [
        {
            "split": split,
            "source": source,
            "frames": sources[source],
            "summary": summarize(rows) if source == PSEUDO else None,
        }
        for source in (*BY_PEOPLE, PSEUDO, NONE)
        if sources[source]
    ]


def _teachers(labelled: list[datasets.Dataset]) -> list[tuple[str, str | None, str, float]]:
    """Name, revision, fingerprint and threshold of each teacher in the column `teacher`."""
    rows = [row for split in labelled for row in split["teacher"] if row is not None]
    teachers = {(row["repo"], row["revision"], row["fingerprint"], row["threshold"]) for row in rows}
    return [(shown_name(repo), *others) for repo, *others in sorted(teachers, key=str)]
