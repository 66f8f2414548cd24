"""Provenance of a model, for its card: the run's record, base model, training data and label budget."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

from scalpel_hf.training.run_record import METRICS_FILE, without_local_paths
from scalpel_hf.utils.reading import read_json

from .repo_names import is_hub_id

BUDGET_FILE = "label_budget.json"


@dataclass(frozen=True)
class Provenance:
    """
    What a model was made of. `None` if unknown.

    Args:
        base_model: Hub id of the base model.
        base_revision: commit of the base that the model was trained on, or else its latest commit.
        base_size: the base's own input size in pixels.
        dataset_revision: commit of the training data on the Hub, or fingerprint of the split in a folder.
        budget: `fraction`, `seed`, `total` and number of `labelled` frames of the label budget.
    """

    base_model: str | None = None
    base_revision: str | None = None
    base_size: int | None = None
    dataset_revision: str | None = None
    budget: dict[str, Any] | None = None


NOTHING_KNOWN = Provenance()


def read_record(folder: str | Path, for_others: bool = True) -> dict[str, Any]:
    """A run's metrics.json; if it is `for_others`, without paths of this machine."""
    path = Path(folder) / METRICS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, but a card's metrics come from it: let the training finish first")
    record = read_json(path)
    if not isinstance(record.get("arguments"), dict) or "dataset" not in record["arguments"]:
        raise ValueError(f"{path} isn't a run's record (no `dataset` in `arguments`): let the training finish first")
    return without_local_paths(record) if for_others else record


def trace(api: HfApi, folder: str | Path, base_model: str | None) -> Provenance:
    """
    Look up the provenance of a run's model, on the Hub and in local folders.

    Args:
        api: client of the Hub.
        folder: of the run.
        base_model: Hub id of the base model; `None` for students.

    Raises `ValueError` if the base is not on the Hub.
    """
    record = read_record(folder, for_others=False)
    arguments = record["arguments"]
    name, split = str(arguments["dataset"]), str(arguments.get("train_split", "train"))
    base_revision, base_size = None, None
    if base_model:
        trained_on = record.get("base_revision") if base_model == arguments.get("base_model") else None
        base_revision, base_size = _look_up_base(api, base_model, trained_on)
    if Path(name).is_dir():
        revision, budget = _fingerprint(Path(name) / split), _read_json(Path(name) / BUDGET_FILE)
    elif is_hub_id(name) and api.repo_exists(name, repo_type="dataset"):
        revision = api.dataset_info(name).sha
        budget = _download_json(api, repo_id=name, name=BUDGET_FILE, repo_type="dataset")
    else:
        revision, budget = None, None
    if budget is not None:
        budget = {key: budget[key] for key in ("fraction", "seed", "total")} | {"labelled": len(budget["names"])}
    return Provenance(base_model, base_revision, base_size, dataset_revision=revision, budget=budget)


def base_on_hub(base_model: str | None, base_model_id: str | None = None) -> str:
    """The Hub id of an adapter's base, to publish; `ValueError` with the remedy if there is none."""
    base = base_model_id or base_model
    if not base or not is_hub_id(base):
        raise ValueError(
            f"the base model {base!r} is not a repository on the Hub, where others could load it: push the base to the "
            "Hub and pass its id as `base_model_id`"
        )
    return base


def base_commit(api: HfApi, base_model: str, trained_on: str | None = None) -> str:
    """
    The commit of a base model to record with an adapter: the one it was trained on, if known, else the latest.

    Raises `ValueError` if the base or the commit is not on the Hub.
    """
    try:
        return str(api.model_info(base_model, revision=trained_on).sha)
    except RevisionNotFoundError as error:
        raise ValueError(
            f"the base model {base_model!r} has no commit {trained_on} on the Hub, which this was trained on"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(f"the base model {base_model!r} is not on the Hub: push it there first") from error


def _look_up_base(api: HfApi, base_model: str, trained_on: str | None) -> tuple[str, int | None]:
    revision = base_commit(api, base_model, trained_on)
    config = _download_json(api, repo_id=base_model, name="config.json", repo_type="model", revision=revision) or {}
    sizes = (config.get(part, {}).get("image_size") for part in ("prompt_encoder_config", "vision_config"))
    return revision, next((size for size in sizes if size), None)  # of SAM 2 and 3 the first alone has it


def _fingerprint(folder: Path) -> str | None:
    return (_read_json(folder / "state.json") or {}).get("_fingerprint")


def _read_json(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None


def _download_json(
    api: HfApi, repo_id: str, name: str, repo_type: str, revision: str | None = None
) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = api.hf_hub_download(repo_id, name, repo_type=repo_type, local_dir=folder, revision=revision)
            return _read_json(Path(path))
        except EntryNotFoundError:
            return None
