"""A finished run's folder to the Hub, in one commit, with a card made of its own record."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData

FILES = ["adapter_model.safetensors", "adapter_config.json", "model.safetensors", "config.json"]
FILES += ["preprocessor_config.json", "metrics.json", "README.md"]
METRICS = {"iou": "IoU", "niou": "nIoU", "pd": "Pd", "fa": "Fa", "f1": "F1"}

LOAD_TEACHER = """import scalpel_hf

teacher = scalpel_hf.Teacher.from_pretrained("{repo}")
probability = teacher.probabilities("frame.png")  # (H, W), at the frame's own size"""
LOAD_STUDENT = """import scalpel_hf

student = scalpel_hf.Student.from_pretrained("{repo}")
probability = student.probabilities("frame.png")  # (H, W), at the frame's own size"""


def push_run(folder: str | Path, repo_id: str, private: bool | None = None) -> str:
    """
    Push a trained teacher or student: its weights, configurations, `metrics.json` and a card, nothing else.

    All files go in one commit, so that an upload that breaks off leaves the repository as it was. Returns the commit's
    address.

    Raises `ValueError` for a teacher whose base model is a folder of this machine: nobody else could load it.
    """
    folder = Path(folder)
    record = json.loads((folder / "metrics.json").read_text())
    base = _hub_base(folder)
    card = model_card(record, repo_id, base)
    card.save(folder / "README.md")
    api = HfApi()
    api.create_repo(repo_id, exist_ok=True, private=private)
    commit = api.upload_folder(
        repo_id=repo_id, folder_path=folder, allow_patterns=FILES, commit_message="Trained with scalpel-hf"
    )
    return commit.commit_url


def _hub_base(folder: Path) -> str | None:
    """Hub id of an adapter's base model; `None` for a student."""
    path = folder / "adapter_config.json"
    if not path.exists():
        return None
    base = json.loads(path.read_text())["base_model_name_or_path"]
    if not base or Path(base).exists() or base.count("/") != 1:
        raise ValueError(
            f"the adapter's base model is {base!r}, a folder of this machine: push the base first, set "
            "`base_model_name_or_path` in adapter_config.json to its Hub id, and push again"
        )
    return base


def model_card(record: dict[str, Any], repo_id: str, base: str | None) -> ModelCard:
    """A card whose figures are those of `metrics.json`."""
    arguments = record["arguments"]
    results = [
        EvalResult(
            task_type="image-segmentation",
            dataset_type=arguments["dataset"],
            dataset_name=arguments["dataset"],
            dataset_split=split,
            metric_type=key,
            metric_name=name,
            metric_value=figures[key],
        )
        for split, figures in record["metrics"].items()
        for key, name in METRICS.items()
    ]
    data = ModelCardData(
        base_model=base,
        library_name="peft" if base else "transformers",
        pipeline_tag="image-segmentation",
        tags=["infrared", "small-target-detection", "scalpel-hf"],
        model_name=repo_id if results else None,
        eval_results=results or None,
    )
    rows = "\n".join(
        f"| {split} | " + " | ".join(f"{f[k]:.4g}" for k in METRICS) + f" | {f['threshold']} | {f['distance']} px |"
        for split, f in record["metrics"].items()
    )
    kind = "A teacher: an adapter on a frozen Segment Anything model" if base else "A student: a small fast network"
    load = (LOAD_TEACHER if base else LOAD_STUDENT).format(repo=repo_id)
    return ModelCard(
        f"""---
{data.to_yaml()}
---

# {repo_id}

{kind} that finds targets of a few pixels in infrared frames, made with scalpel-hf.

```python
{load}
```

| split | {" | ".join(METRICS.values())} | threshold | matched within |
|---|{"---|" * len(METRICS)}---|---|
{rows}

IoU, nIoU, Pd and F1 are shares, Fa is in 1e-6 of all pixels; one run, seed {arguments["seed"]}, frames at their
own size. Measured on frames like those it was trained on; on other cameras and scenes measure it again before relying on it.

Trained with `{record["command"]}`, {record["training"]["steps"]} steps; `metrics.json` has all arguments. The
licences of the data and of the base model apply besides this package's own (Apache-2.0).
"""
    )
