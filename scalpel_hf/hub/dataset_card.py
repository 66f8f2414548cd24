"""The card of a labelled data set that is published on the Hub. Its metrics are counted in the data set itself."""

import json
from collections import Counter
from typing import Any

import datasets
from huggingface_hub import DatasetCard, DatasetCardData

from scalpel_hf.data import LabelBudget
from scalpel_hf.data.label_sources import BY_PEOPLE, NONE, PSEUDO
from scalpel_hf.pseudo_labels import summarize

from .card_parts import PICTURE, PROJECT_TAGS
from .markdown import code, escape
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
    labelled = {split: rows for split, rows in splits.items() if "pseudo_mask" in rows.column_names}
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
    frames = "on some of them and a teacher's pseudo labels on others" if labelled else "of small targets"
    first = next(iter(splits))
    text = f"""# {name}

Infrared frames with human masks {frames}.

{_table(splits)}
{_budget_text(budget)}
## How to load it

```python
from datasets import load_dataset

dataset = load_dataset("{repo_id}", split={json.dumps(first)})
row = dataset[0]
frame, mask = row["image"], row["mask"]
```

`mask` is a human's and `None` where no human has labelled{_columns_text(bool(labelled))}

{_teachers_text(labelled)}{_run_text(run, picture)}## Limits, intended use and misuse

{PSEUDO_LIMITS if labelled else ""}Meant for research on small targets in single infrared frames: to train detectors,
and to compare them. Not meant for decisions about people or property without a person's
eyes on them, nor for aiming weapons. What these frames don't show, other sensors, wavelengths, target sizes or
backgrounds, nothing that is trained or measured on them can be expected to know.

## Licences

Images and human masks: {code(license)}, as whoever published them says. Pseudo labels add no restriction of their own.
"""
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


PSEUDO_LIMITS = """Pseudo labels are a model's guesses: they miss targets, and mark clutter as target. Weigh them by
their confidence, train on them, and never measure with them. """


def _table(splits: datasets.DatasetDict) -> str:
    lines = ["| split | `label_source` | frames |", "|---|---|---|"]
    for split, rows in splits.items():
        sources = Counter(rows["label_source"] if "label_source" in rows.column_names else ["human"] * len(rows))
        for source in (*BY_PEOPLE, PSEUDO, NONE):
            if not sources[source]:
                continue
            detail = ""
            if source == "pseudo":
                summary = summarize(rows)
                detail = f": {summary['empty']} without target, {summary['one']} with one, {summary['many']} with more"
            lines.append(f"| {escape(split)} | `{source}` | {sources[source]}{detail} |")
    return "\n".join(lines) + "\n"


def _budget_text(budget: LabelBudget | None) -> str:
    if budget is None:
        return ""
    return f"""
{len(budget.names)} of {budget.total} training frames kept their masks: a label budget of {100 * budget.fraction:g} %,
drawn with seed {budget.seed}; their names are in `label_budget.json`.
"""


def _columns_text(labelled: bool) -> str:
    if not labelled:
        return "."
    return """; `label_source` says which label of a
row counts. The teacher's columns are empty where a human has labelled:

| column | |
|---|---|
| `pseudo_mask` | 0 or 255 |
| `pseudo_confidence` | the teacher's probability of a target, 0 to 255 |
| `pseudo_objects` | of each object `bbox` (x, y, width, height in pixels), `area` in pixels, `score` |
| `pseudo_score` | the best object's score, 0 without one |
| `teacher` | `repo`, `revision`, `fingerprint` of weights and settings, `threshold`, `version` of scalpel-hf |

Where `pseudo_confidence` is above the threshold and `pseudo_mask` is 0, quality control has turned an object down: take
these pixels for neither target nor background, as `scalpel_hf.training_mask(row)` does. Rows with a `teacher` whose
`label_source` is `none` are frames in which it found nothing without being sure that there is nothing."""


def _teachers_text(labelled: dict[str, datasets.Dataset]) -> str:
    if not labelled:
        return ""
    rows = [row for split in labelled.values() for row in split["teacher"] if row is not None]
    teachers = sorted(
        {tuple(row[key] for key in ("repo", "revision", "fingerprint", "threshold")) for row in rows}, key=str
    )
    made_by = "\n".join(f"- {_describe_teacher(*teacher)}" for teacher in teachers)
    return f"""## How the pseudo labels were made

With `scalpel-hf label` of scalpel-hf, by:

{made_by or "- nobody: there are none."}

"""


def _describe_teacher(repo: str, revision: str | None, fingerprint: str, threshold: float) -> str:
    at = f" at revision {code(revision)}" if revision else ""
    return f"{code(shown_name(repo))}{at}, weights and settings {code(fingerprint)}, at threshold {threshold:g}"


def _run_text(run: dict[str, Any] | None, picture: bool) -> str:
    if run is None:
        return ""
    rules, quality = run["rules"], run["summary"].get("quality")
    text = f"""An object is labelled with a score of {rules["min_score"]:g} or more and an area of {rules["min_area"]}
px or more. {run["summary"]["unsure"]} frames were left without a label, because the teacher was not sure that they are
empty; {len(run["summary"]["skipped"])} could not be labelled.

"""
    if quality and "iou" in quality:
        text += f"""Against human masks that were hidden until they were made, on the {quality["n_images"]}
pseudo-labelled frames: IoU {100 * quality["iou"]:.1f} %, nIoU {100 * quality["niou"]:.1f} %, Pd
{100 * quality["pd"]:.1f} %, Fa {quality["fa"]:.1f} 1e-6. Of {quality["objects"]} labelled objects
{quality["true_objects"]} are targets; of {quality["ignored"]} ignored ones {quality["true_ignored"]}.

"""
    if picture:
        text += f"""Frames drawn at random: the frame, the teacher's probability, and what became of it, red labelled,
yellow ignored, green the hidden truth where it is known.

![Pseudo labels of frames drawn at random]({PICTURE})

"""
    return text
