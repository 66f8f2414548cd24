"""The card of a labelled data set that is published on the Hub. Its figures are counted in the data set itself."""

import json
from typing import Any

import datasets
from huggingface_hub import DatasetCard, DatasetCardData

from .cards import PROJECT_TAGS, USE_TEXT, shown_name
from .pseudo_labels import summarize


def dataset_card(dataset: datasets.Dataset, repo_id: str, split: str = "train", license: str = "other") -> DatasetCard:
    """
    Card of a data set with human and pseudo labels.

    Args:
        license: the images' and human masks', by the Hub's name for it.
    """
    name, summary = repo_id.split("/")[-1], summarize(dataset)
    data = DatasetCardData(
        license=license,
        task_categories=["image-segmentation"],
        pretty_name=name,
        tags=[*PROJECT_TAGS, "pseudo-labels"],
        configs=[{"config_name": "default", "data_files": [{"split": split, "path": f"data/{split}-*"}]}],
    )
    teachers = sorted({t for t in dataset["teacher"] if t is not None}) if "teacher" in dataset.column_names else []
    made_by = "\n".join(f"- {_describe_teacher(json.loads(teacher))}" for teacher in teachers)
    text = f"""# {name}

Infrared frames with human masks of small targets on some of them and a teacher's pseudo labels on others.

| `label_source` | frames |
|---|---|
| `human` | {summary["human"]} |
| `pseudo` | {summary["pseudo"]}: {summary["empty"]} without target, {summary["one"]} with one, {summary["many"]} more |
| `none` | {summary["none"]} |

## How to load it

```python
from datasets import load_dataset

dataset = load_dataset("{repo_id}", split="{split}")
row = dataset[0]
frame, source = row["image"], row["label_source"]
```

`mask` is a human's and `None` where no human has labelled; `pseudo_mask` (0 or 255), `pseudo_confidence` (the teacher's
probability in 8 bits), `pseudo_objects` (boxes as x, y, width, height in pixels, areas, scores) and `pseudo_score` are
the teacher's, and empty where a human has labelled.

## How the pseudo labels were made

With `scripts/pseudo_label.py` of scalpel-hf, by:

{made_by or "- nobody: there are none."}

## Limits, intended use and misuse

Pseudo labels are a model's guesses: they miss targets, and mark clutter as target. Weigh them by their confidence,
train on them, and never measure with them. {USE_TEXT.split(". ", 1)[1]}

## Licences

Images and human masks: `{license}`, as whoever published them says. The pseudo labels add no restriction of their own.
"""
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _describe_teacher(teacher: dict[str, Any]) -> str:
    name, fingerprint = shown_name(teacher["name"]), teacher["fingerprint"]
    return f"`{name}`, weights and settings `{fingerprint}`, at threshold {teacher['threshold']:g}"
