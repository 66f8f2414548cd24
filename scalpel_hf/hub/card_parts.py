"""What the cards of teachers and students have in common. Figures come from the run's metrics.json alone."""

import json
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .markdown import code, escape
from .provenance import Provenance
from .repo_names import is_hub_id, shown_name

PROJECT_TAGS = ["scalpel-hf", "infrared", "infrared-small-target-detection"]
PICTURE = "examples.png"
# Of segmentation, then of detection: name, factor and unit by the record's key.
METRICS = {
    "iou": ("IoU", 100, "%"),
    "niou": ("nIoU", 100, "%"),
    "pd": ("Pd", 100, "%"),
    "fa": ("Fa", 1, "1e-6"),
    "ap50": ("AP50", 100, "%"),
    "ap50_95": ("AP50–95", 100, "%"),
    "precision": ("Precision", 100, "%"),
    "recall": ("Recall", 100, "%"),
    "f1": ("F1", 100, "%"),
}
SEGMENTATION_TEXT = """IoU is pooled over all pixels and nIoU averaged over frames; Pd is the share of targets matched
one to one with a predicted component whose centroid is closer than the radius; Fa is the share of pixels in unmatched
components."""
DETECTION_TEXT = """AP is COCO's average precision of the boxes; for precision, recall and F1 a box above the threshold
and a target match one to one where their centres are closer than the radius."""
USE_TEXT = """Meant for research on small targets in single infrared frames, and for labelling such frames under a
person's eyes. Not meant for decisions about people or property without one, nor for aiming weapons. It finds small,
bright, compact things; it doesn't know what they are. Other sensors, wavelengths, target sizes or backgrounds than
those of the training data can change every figure above: measure on your own frames first."""
# `cache_dir` is what `feature_cache_dir` was called.
HIDDEN = {"output_dir", "feature_cache_dir", "cache_dir", "push_to_hub", "base_model_id", "resume", "num_workers"}


def metadata(record: dict[str, Any], provenance: Provenance, name: str, **kwargs: Any) -> ModelCardData:
    """The front matter of a model's card."""
    arguments = record["arguments"]
    names = [n for n in (arguments.get("dataset"), arguments.get("pseudo_labels")) if is_hub_id(n)]
    known = {
        "base_model_revision": provenance.base_revision,
        "dataset_revision": provenance.dataset_revision,
        "label_budget": provenance.budget,
    }
    kwargs |= {key: value for key, value in known.items() if value}
    return ModelCardData(
        license="apache-2.0",
        datasets=[str(n) for n in names] or None,
        pipeline_tag=kwargs.pop("pipeline_tag", "image-segmentation"),
        tags=[*PROJECT_TAGS, *kwargs.pop("tags")],
        model_name=name,
        eval_results=eval_results(record, provenance),
        train_split=arguments.get("train_split", "train"),
        **kwargs,
    )


def eval_results(record: dict[str, Any], provenance: Provenance) -> list[EvalResult] | None:
    """The metrics as the Hub shows them beside a model."""
    name = shown_name(record["arguments"]["dataset"])
    results = [
        EvalResult(
            task_type="object-detection" if "ap50" in metrics else "image-segmentation",
            task_name="Infrared small target detection",
            dataset_type=name,
            dataset_name=name,
            dataset_split=split,
            dataset_revision=provenance.dataset_revision,
            metric_type=key,
            metric_name=title,
            metric_value=metrics[key],
            metric_config=f"threshold {metrics['threshold']:g}, matching radius {metrics['distance']:g} px",
        )
        for split, metrics in record["metrics"].items()
        for key, (title, _, _) in METRICS.items()
        if metrics.get(key) is not None
    ]
    return results or None


def training_text(record: dict[str, Any], provenance: Provenance, verb: str) -> str:
    """How the model was trained: data, labels, command and YAML."""
    arguments, training = record["arguments"], record["training"]
    shown = {k: shown_name(v) if isinstance(v, str) else v for k, v in arguments.items() if k not in HIDDEN}
    rows = "\n".join(f"{key}: {json.dumps(value)}" for key, value in shown.items())
    packages = escape(", ".join(f"{name} {version}" for name, version in record["machine"]["packages"].items()))
    return f"""## How it was trained

{_data_text(record, provenance)}

By `scalpel-hf {verb}`, {training["steps"]} steps in {training["seconds"]:.0f} s, as

```sh
scalpel-hf {verb} --config config.yaml
```

with this `config.yaml`:

```yaml
{rows}
```

The command was {code(record["command"])}. Packages: {packages}.
"""


def figures_text(record: dict[str, Any]) -> str:
    """A table of the metrics, what they mean and what they don't say."""
    seed = record["arguments"]["seed"]
    if not record["metrics"]:
        return "## Figures\n\nNot measured on a test split.\n"
    splits = record["metrics"].items()
    present = {k: v for k, v in METRICS.items() if any(metrics.get(k) is not None for _, metrics in splits)}
    lines = ["| split | " + " | ".join(f"{t} ({unit})" for t, _, unit in present.values()) + " | threshold | radius |"]
    lines.append("|---" * (len(present) + 3) + "|")
    for split, metrics in splits:
        values = ["–" if metrics[k] is None else f"{metrics[k] * s:.2f}" for k, (_, s, _) in present.items()]
        lines.append(
            f"| {escape(split)} | {' | '.join(values)} | {metrics['threshold']:g} | {metrics['distance']:g} px |"
        )
    table = "\n".join(lines)
    return f"""## Figures and their limits

On {code(shown_name(record["arguments"]["dataset"]))}, one run, seed {seed}; the spread over seeds is not
in these metrics.

{table}

{DETECTION_TEXT if "ap50" in present else SEGMENTATION_TEXT} All at the frames' own size; the split selected neither
step nor threshold.
"""


def picture_text(has_picture: bool, record: dict[str, Any]) -> str:
    """The picture grid, where there is one."""
    if not has_picture:
        return ""
    name = code(shown_name(record["arguments"]["dataset"]))
    return f"""
![Frames, truth and what the model finds]({PICTURE})

Frames of {name}, each with its human mask outlined in green and what the model finds in red.
"""


def closing_text(record: dict[str, Any], weights: str) -> str:
    """Use, misuse and licences."""
    return f"""## Intended use and misuse

{USE_TEXT}

## Licences

{weights} The training data {code(shown_name(record["arguments"]["dataset"]))} is not included and
keeps its own licence; that goes for frames of it in pictures here, too.
"""


def as_card(data: ModelCardData, text: str) -> ModelCard:
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def _data_text(record: dict[str, Any], provenance: Provenance) -> str:
    arguments, budget = record["arguments"], provenance.budget
    text = f"On the split {code(arguments.get('train_split', 'train'))} of {code(shown_name(arguments['dataset']))}"
    if provenance.dataset_revision:
        text += f" (revision {code(provenance.dataset_revision)})"
    if budget:
        text += (
            f", where {budget['labelled']} of {budget['total']} frames have a human's mask, a label budget of "
            f"{100 * budget['fraction']:g} % drawn with seed {budget['seed']}"
        )
    if arguments.get("pseudo_labels"):
        text += f", with the pseudo labels {code(shown_name(arguments['pseudo_labels']))}"
    return f"{text}."
