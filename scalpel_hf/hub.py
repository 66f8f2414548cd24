"""Publish trained models and labelled data sets on the Hub: one commit a push, and only what belongs there."""

import fnmatch
import json
import tempfile
from pathlib import Path

import datasets
from datasets.table import embed_table_storage
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi, ModelCard
from huggingface_hub.errors import RepositoryNotFoundError

from .cards import base_on_hub, student_card, teacher_card
from .dataset_card import dataset_card

__all__ = ["base_on_hub", "dataset_card", "push_dataset", "push_folder", "push_run", "student_card", "teacher_card"]

FILES = {
    "model": ("adapter_model.safetensors", "model.safetensors", "*config.json", "metrics.json"),
    "dataset": ("data/*.parquet", "label_budget.json", "summary.json"),
}
ROWS = 5000  # of a data set in one parquet file


def push_folder(
    folder: str | Path,
    repo_id: str,
    card: ModelCard | DatasetCard,
    repo_type: str = "model",
    private: bool | None = None,
) -> str:
    """
    Push a folder's weights, configurations and figures, with the card as README.md, in one commit.

    Checkpoints, caches and whatever else lies there stay behind. An adapter's `base_model_name_or_path` is published as
    the card's `base_model`; the folder itself is not changed. Until the commit, which comes last, the repository stays
    as it was, so an interrupted push is simply repeated. A data set's files that are no longer there are removed.

    Args:
        folder: output of a recipe, or one with `data/*.parquet`.
        repo_id: `org/name`; the repository is made if it isn't there.
        private: whether a repository that is made is private; as the organisation has it by default.

    Returns the commit's URL.

    Raises:
        ConnectionError: where the connection broke.
        FileNotFoundError: where the folder has no weights, or no parquet files.
        ValueError: for an adapter whose base is not on the Hub.
    """
    folder, api = Path(folder), HfApi()
    contents: dict[str, str | bytes] = {path: str(folder / path) for path in _files(folder, repo_type)}
    if "adapter_config.json" in contents:
        base = _published_base(api, folder, card)
        config = json.loads((folder / "adapter_config.json").read_text())
        contents["adapter_config.json"] = (json.dumps({**config, "base_model_name_or_path": base}, indent=2)).encode()
    contents["README.md"] = str(_with_known_datasets(api, card)).encode()

    api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, content) for path, content in contents.items()
    ]
    if repo_type == "dataset":
        there = fnmatch.filter(api.list_repo_files(repo_id, repo_type=repo_type), "data/*.parquet")
        operations += [CommitOperationDelete(path) for path in there if path not in contents]
    # `upload_folder` may spread its files over several commits; `create_commit` never does.
    message = f"Push {repo_type} with scalpel-hf"
    try:
        return api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type).commit_url
    except (OSError, ValueError):
        raise
    except Exception as error:  # the client lets through what its HTTP library raises
        raise ConnectionError(f"{folder} was not pushed to {repo_id} ({error}): push it again") from error


def push_run(folder: str | Path, repo_id: str, base_model_id: str | None = None, private: bool | None = None) -> str:
    """
    Push the teacher or student that a recipe left in a folder, with a card made of its metrics.json; see
    [`push_folder`].

    Args:
        base_model_id: Hub id of a teacher's base, where it was loaded from a folder.
    """
    if (Path(folder) / "adapter_config.json").exists():
        card = teacher_card(folder, repo_id, base_model_id or None)
    else:
        card = student_card(folder, repo_id)
    return push_folder(folder, repo_id, card, private=private)


def push_dataset(
    dataset: datasets.Dataset, repo_id: str, split: str = "train", license: str = "other", private: bool | None = None
) -> str:
    """Push a labelled data set as parquet files with the images inside, and its card; see [`push_folder`]."""
    card = dataset_card(dataset, repo_id, split, license)
    with tempfile.TemporaryDirectory() as folder:
        count = max(1, -(-len(dataset) // ROWS))
        for index in range(count):
            path = Path(folder) / "data" / f"{split}-{index:05d}-of-{count:05d}.parquet"
            path.parent.mkdir(exist_ok=True)
            shard = dataset.shard(count, index, contiguous=True).with_format("arrow")
            # Images that lie in files of this machine go along, their paths don't.
            embedded = shard.map(embed_table_storage, batched=True, batch_size=100, keep_in_memory=True)
            embedded.with_format(None).to_parquet(path)
        return push_folder(folder, repo_id, card, repo_type="dataset", private=private)


def _files(folder: Path, repo_type: str) -> list[str]:
    found = sorted(path.relative_to(folder).as_posix() for pattern in FILES[repo_type] for path in folder.glob(pattern))
    if not any(path.endswith((".safetensors", ".parquet")) for path in found):
        raise FileNotFoundError(f"{folder} has nothing to push: none of {', '.join(FILES[repo_type])}")
    return found


def _with_known_datasets(api: HfApi, card: ModelCard | DatasetCard) -> ModelCard | DatasetCard:
    """The card without those `datasets` that aren't on the Hub: `data/nuaa` may as well have been a folder."""
    card = type(card)(str(card))
    known = [name for name in card.data.get("datasets") or [] if api.repo_exists(name, repo_type="dataset")]
    card.data["datasets"] = known or None
    return card


def _published_base(api: HfApi, folder: Path, card: ModelCard | DatasetCard) -> str:
    base = base_on_hub(card.data.get("base_model"))
    try:
        api.model_info(base)
    except RepositoryNotFoundError as error:
        raise ValueError(f"{folder}: the base model {base!r} is not on the Hub: push it there first") from error
    return base
