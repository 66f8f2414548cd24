"""Cards of models that are published on the Hub. Figures come from the run's metrics.json alone."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

PROJECT_TAGS = ["scalpel-hf", "infrared", "infrared-small-target-detection"]
FIGURES = {
    "iou": ("IoU", 100, "%"),
    "niou": ("nIoU", 100, "%"),
    "pd": ("Pd", 100, "%"),
    "fa": ("Fa", 1, "1e-6"),
    "f1": ("F1", 100, "%"),
}
METRICS_TEXT = """IoU is pooled over all pixels and nIoU averaged over frames; Pd is the share of targets matched one to
one with a predicted component whose centroid is closer than the radius; Fa is the share of pixels in unmatched
components. All at the frames' own size; the split selected neither step nor threshold."""
USE_TEXT = """Meant for research on small targets in single infrared frames, and for labelling such frames under a
person's eyes. Not meant for decisions about people or property without one, nor for aiming weapons. It finds small,
bright, compact things; it doesn't know what they are. Other sensors, wavelengths, target sizes or backgrounds than
those of the training data can change every figure above: measure on your own frames first."""


def teacher_card(folder: str | Path, repo_id: str, base_model_id: str | None = None) -> ModelCard:
    """
    Card of an adapter in a folder that `recipes/distill.py` wrote.

    Args:
        base_model_id: Hub id of the base; may be left out where the adapter was trained on one from the Hub.

    Raises `ValueError` for a base that was loaded from a folder, without `base_model_id`.
    """
    folder, record = Path(folder), _read_record(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    base = base_on_hub(config["base_model_name_or_path"], base_model_id)
    size = json.loads((folder / "preprocessor_config.json").read_text())["sam_size"]
    mobile = "MobileSam" in str(config.get("auto_mapping"))  # whose input size is chosen at loading
    name = repo_id.split("/")[-1]
    data = ModelCardData(
        library_name="peft",
        license="apache-2.0",
        base_model=base,
        datasets=_hub_datasets(record),
        pipeline_tag="image-segmentation",
        tags=[*PROJECT_TAGS, "base_model:adapter:" + base, "scalpel-moe", "segment-anything"],
        model_name=name,
        eval_results=_eval_results(record),
    )
    text = f"""# {name}

A teacher that finds small targets in infrared frames: an adapter of the PEFT type `SCALPEL_MOE` on the Segment Anything
model [{base}](https://huggingface.co/{base}), whose own weights are frozen and not in this repository. It needs no
prompt, and takes {size} x {size} pixels. Its main use is to label frames that no human has labelled.

## How to load it

```python
import numpy as np
from scalpel_hf import Teacher

teacher = Teacher.from_pretrained("{repo_id}")
frame = np.random.default_rng(0).normal(1000, 20, (96, 128))  # or a path, or a PIL image
probabilities = teacher.probabilities(frame)  # (height, width), from 0 to 1
```

With PEFT, around a base that you load yourself:

```python
from peft import PeftModel
from scalpel_hf.teacher import load_sam

model = PeftModel.from_pretrained(load_sam("{base}", image_size={size}), "{repo_id}")
```

With transformers, which loads the base too:

```python
import scalpel_hf  # makes the adapter's type known
from transformers import AutoModel

model = AutoModel.from_pretrained("{repo_id}"{f", image_size={size}" if mobile else ""})
```

{_training_text(record, "recipes/distill.py")}
{_figures_text(record)}
## Intended use and misuse

{USE_TEXT}

## Licences

The adapter: Apache-2.0. The base: see [{base}](https://huggingface.co/{base}). {_data_licence(record)}
"""
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def student_card(folder: str | Path, repo_id: str) -> ModelCard:
    """Card of a student in a folder that `recipes/transfer.py` wrote."""
    record, name = _read_record(folder), repo_id.split("/")[-1]
    data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        datasets=_hub_datasets(record),
        pipeline_tag="image-segmentation",
        tags=[*PROJECT_TAGS, "scalpel_student"],
        model_name=name,
        eval_results=_eval_results(record),
    )
    pseudo = record["arguments"].get("pseudo_labels")
    labels = "human masks and a teacher's pseudo labels" if pseudo else "human masks"
    text = f"""# {name}

A small convolutional network that finds small targets in infrared frames, trained on {labels}. One channel in, one
logit a pixel out, at the frame's own size.

## How to load it

```python
import numpy as np
import torch
import scalpel_hf  # makes the model type known
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

model = AutoModelForSemanticSegmentation.from_pretrained("{repo_id}").eval()
processor = AutoImageProcessor.from_pretrained("{repo_id}")
frame = np.random.default_rng(0).normal(1000, 20, (96, 128))  # or a path, or a PIL image
with torch.no_grad():
    logits = model(**processor(frame, return_tensors="pt")).logits
probabilities = logits.sigmoid()[0, 0]  # (height, width)
```

{_training_text(record, "recipes/transfer.py")}
{_figures_text(record)}
## Intended use and misuse

{USE_TEXT}

## Licences

The weights: Apache-2.0. {_data_licence(record)}
"""
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")


def base_on_hub(base_model: str | None, base_model_id: str | None = None) -> str:
    """The Hub id to publish for an adapter's base; `ValueError` with the remedy where there is none."""
    base = base_model_id or base_model
    if not base or not is_hub_id(base):
        raise ValueError(
            f"the base model {base!r} is not a repository on the Hub, and a path means nothing elsewhere: push the "
            "base to the Hub and pass its id as `base_model_id`"
        )
    return base


def is_hub_id(name: str | None) -> bool:
    """Whether a name is `org/name` and no folder here."""
    return (
        bool(name)
        and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(name)) is not None
        and not Path(str(name)).exists()
    )


def _read_record(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: a card's figures come from it; let the recipe finish first")
    return json.loads(path.read_text())


def _hub_datasets(record: dict[str, Any]) -> list[str] | None:
    arguments = record["arguments"]
    names = [name for name in (arguments.get("dataset"), arguments.get("pseudo_labels")) if is_hub_id(name)]
    return [str(name) for name in names] or None


def shown_name(name: str) -> str:
    """A name for readers elsewhere: of an absolute path its last part."""
    return Path(name).name if Path(name).is_absolute() else name


def _eval_results(record: dict[str, Any]) -> list[EvalResult] | None:
    name = shown_name(record["arguments"]["dataset"])
    results = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Infrared small target detection",
            dataset_type=name,
            dataset_name=name,
            dataset_split=split,
            metric_type=key,
            metric_name=title,
            metric_value=figures[key],
            metric_config=f"threshold {figures['threshold']:g}, matching radius {figures['distance']:g} px",
        )
        for split, figures in record["metrics"].items()
        for key, (title, _, _) in FIGURES.items()
    ]
    return results or None


def _training_text(record: dict[str, Any], recipe: str) -> str:
    arguments, training = record["arguments"], record["training"]
    hidden = {"output_dir", "cache_dir", "push_to_hub", "base_model_id", "resume", "num_workers"}
    shown = {k: shown_name(v) if isinstance(v, str) else v for k, v in arguments.items() if k not in hidden}
    rows = "\n".join(f"{key}: {json.dumps(value)}" for key, value in shown.items())
    packages = ", ".join(f"{name} {version}" for name, version in record["machine"]["packages"].items())
    return f"""## How it was trained

By `{recipe}` of scalpel-hf, {training["steps"]} steps in {training["seconds"]:.0f} s, as

```sh
accelerate launch {recipe} --config config.yaml
```

with this `config.yaml`:

```yaml
{rows}
```

What was typed was `{record["command"]}`. Packages: {packages}.
"""


def _figures_text(record: dict[str, Any]) -> str:
    seed = record["arguments"]["seed"]
    if not record["metrics"]:
        return "## Figures\n\nNot measured on a test split.\n"
    lines = ["| split | " + " | ".join(f"{t} ({unit})" for t, _, unit in FIGURES.values()) + " | threshold | radius |"]
    lines.append("|---" * (len(FIGURES) + 3) + "|")
    for split, figures in record["metrics"].items():
        values = [f"{figures[key] * scale:.2f}" for key, (_, scale, _) in FIGURES.items()]
        lines.append(f"| {split} | {' | '.join(values)} | {figures['threshold']:g} | {figures['distance']:g} px |")
    table = "\n".join(lines)
    return f"""## Figures and their limits

On `{shown_name(record["arguments"]["dataset"])}`, one run, seed {seed}; the spread over seeds is not in these figures.

{table}

{METRICS_TEXT}
"""


def _data_licence(record: dict[str, Any]) -> str:
    return (
        f"The training data `{shown_name(record['arguments']['dataset'])}` is not included and keeps its own licence."
    )
