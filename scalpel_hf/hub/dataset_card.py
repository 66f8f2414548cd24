"""The card of a labelled data set that is published on the Hub; its text is in dataset_card.md. What it says is counted
in the data set itself."""

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
    Card of a data set with human masks, and pseudo labels where there are any.

    Args:
        license: the images' and human masks', by the Hub's name for it.
        budget: how the frames were drawn that people labelled.
        run: the record of the run that made the pseudo labels, see `pseudo_labels.output.read_run`.
        picture: show the picture grid `PICTURE`, which is pushed beside the card.
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
        data,
        picture,
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
    """How many frames of a split have a label of each source."""
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
    """Name, revision, fingerprint and threshold of all that labelled."""
    rows = [row for split in labelled for row in split["teacher"] if row is not None]
    teachers = {(row["repo"], row["revision"], row["fingerprint"], row["threshold"]) for row in rows}
    return [(shown_name(repo), *others) for repo, *others in sorted(teachers, key=str)]
