"""Model cards for the Hub, from the template model_card.md and the run's metrics.json."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from scalpel_hf.predictors.strict_loading import ADAPTER_CONFIG
from scalpel_hf.utils.reading import read_json

from .card_parts import PROJECT_TAGS, render
from .provenance import NOTHING_KNOWN, Provenance, base_on_hub, read_record
from .repo_names import is_hub_id, shown_name

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
    "false_alarms_per_frame": ("False alarms a frame", 1, "number"),
}
# Arguments that a card doesn't list.
HIDDEN = {"output_dir", "feature_cache_dir", "push_to_hub", "base_model_id", "resume", "num_workers"}


def teacher_card(
    folder: str | Path, repo_id: str, provenance: Provenance = NOTHING_KNOWN, picture: bool = False
) -> ModelCard:
    """
    The card of an adapter in a folder that `scalpel-hf distill` wrote.

    Args:
        folder: of the run.
        repo_id: `org/name` that the card is for.
        provenance: its `base_model` is needed if the base was loaded from a folder.
        picture: whether the picture `PICTURE` is pushed too.

    Raises `ValueError` if the base was loaded from a folder and its Hub id is missing.
    """
    record, config = read_record(folder), read_json(Path(folder) / ADAPTER_CONFIG)
    base = base_on_hub(config["base_model_name_or_path"], provenance.base_model)
    data = metadata(
        record,
        provenance,
        repo_id,
        library_name="peft",
        base_model=base,
        base_model_relation="adapter",
        tags=["base_model:adapter:" + base, "scalpel-moe", "segment-anything"],
    )
    own = {
        "kind": "teacher",
        "base": base,
        "size": read_json(Path(folder) / "preprocessor_config.json")["sam_size"],
        "base_size": provenance.base_size,
        "mobile": "MobileSam" in str(config.get("auto_mapping")),
    }
    return render(
        ModelCard, "model_card.md", data=data, picture=picture, **own, **training(record, provenance, repo_id)
    )


def standalone_card(
    folder: str | Path, repo_id: str, provenance: Provenance = NOTHING_KNOWN, picture: bool = False
) -> ModelCard:
    """The card of a stand-alone teacher ([`ScalpelSamModel`]) in a folder with metrics.json; see [`teacher_card`]."""
    record = read_record(folder)
    base = base_on_hub(record["arguments"].get("base_model"), provenance.base_model)
    data = metadata(
        record,
        provenance,
        repo_id,
        library_name="transformers",
        base_model=base,
        base_model_relation="finetune",
        tags=["scalpel_sam", "segment-anything", "custom_code"],
    )
    size = read_json(Path(folder) / "processor_config.json")["image_processor"]["sam_size"]
    own = {"kind": "stand-alone", "base": base, "size": size}
    return render(
        ModelCard, "model_card.md", data=data, picture=picture, **own, **training(record, provenance, repo_id)
    )


def student_card(
    folder: str | Path, repo_id: str, provenance: Provenance = NOTHING_KNOWN, picture: bool = False
) -> ModelCard:
    """The card of a student in a folder that `scalpel-hf transfer` wrote; see [`teacher_card`]."""
    record, model_type = read_record(folder), read_json(Path(folder) / "config.json")["model_type"]
    detects = record["arguments"].get("task") == "detection"
    data = metadata(
        record,
        provenance,
        repo_id,
        library_name="transformers",
        pipeline_tag="object-detection" if detects else "image-segmentation",
        tags=[model_type, "custom_code"],
    )
    own = {
        "kind": "student",
        "detects": detects,
        "model_type": model_type,
        "own": model_type.startswith("scalpel_student"),
    }
    return render(
        ModelCard, "model_card.md", data=data, picture=picture, **own, **training(record, provenance, repo_id)
    )


def training(record: dict[str, Any], provenance: Provenance, repo_id: str) -> dict[str, Any]:
    """Variables of the template for all kinds of models: training and metrics."""
    arguments, metrics = record["arguments"], record["metrics"]
    packages = record["machine"]["packages"].items()
    present = {k: v for k, v in METRICS.items() if any(values.get(k) is not None for values in metrics.values())}
    return {
        "name": repo_id.split("/")[-1],
        "repo_id": repo_id,
        "provenance": provenance,
        "arguments": arguments,
        "dataset": shown_name(arguments["dataset"]),
        "pseudo_labels": arguments.get("pseudo_labels") and shown_name(arguments["pseudo_labels"]),
        "training": record["training"],
        "shown": {k: shown_name(v) if isinstance(v, str) else v for k, v in arguments.items() if k not in HIDDEN},
        "command": record["command"],
        "packages": ", ".join(f"{name} {version}" for name, version in packages),
        "metrics": metrics,
        "columns": present,
        "by_boxes": "false_alarms_per_frame" in present,
    }


def metadata(record: dict[str, Any], provenance: Provenance, repo_id: str, **kwargs: Any) -> ModelCardData:
    """The YAML metadata of a model card."""
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
        model_name=repo_id.split("/")[-1],
        eval_results=eval_results(record, provenance),
        train_split=arguments.get("train_split", "train"),
        **kwargs,
    )


def eval_results(record: dict[str, Any], provenance: Provenance) -> list[EvalResult] | None:
    """The metrics for the Hub's evaluation results; `None` without metrics."""
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
            metric_config=f"threshold {metrics['threshold']:g}, {_matching(metrics)}",
        )
        for split, metrics in record["metrics"].items()
        for key, (title, _, _) in METRICS.items()
        if metrics.get(key) is not None
    ]
    return results or None


def _matching(metrics: dict[str, Any]) -> str:
    if "false_alarms_per_frame" in metrics:
        return "centres of detections in boxes"
    return f"matching radius {metrics['distance']:g} px"
