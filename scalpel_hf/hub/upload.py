"""Pushes models, data sets and the metric to the Hub, each in one commit."""

import fnmatch
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import datasets
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, DatasetCard, HfApi, ModelCard, RepoCard

from scalpel_hf.data import LabelBudget
from scalpel_hf.data.parquet import write_parquet_file
from scalpel_hf.evaluation.unseen import TRAINED_ON_FILE
from scalpel_hf.modeling.custom_code import IMAGE_PROCESSOR_FILE, code_files, published_configs
from scalpel_hf.predictors.kinds import ModelKind, kind_of
from scalpel_hf.predictors.strict_loading import ADAPTER_CONFIG, COMMITTEE_FILE, MEMBER_FOLDERS
from scalpel_hf.pseudo_labels.output import read_grid, read_run
from scalpel_hf.runtime.settings import FOLDER as ONNX
from scalpel_hf.runtime.settings import belonging_files
from scalpel_hf.training.run_record import METRICS_FILE, shown_values, without_local_paths
from scalpel_hf.utils.reading import read_json

from .card_parts import PICTURE
from .dataset_card import dataset_card
from .example_grid import example_pictures
from .model_card import standalone_card, student_card, teacher_card
from .provenance import BUDGET_FILE, base_commit, base_on_hub, read_record, trace
from .repo_names import shown_name
from .standalone import save_standalone

__all__ = ["base_on_hub", "push_dataset", "push_folder", "push_metric", "push_run", "save_standalone"]

FILES = {
    "model": (
        *("adapter_model.safetensors", "model*.safetensors", "model.safetensors.index.json", "*config.json"),
        *(METRICS_FILE, TRAINED_ON_FILE),
        *(COMMITTEE_FILE, f"{MEMBER_FOLDERS}/*model.safetensors", f"{MEMBER_FOLDERS}/*config.json"),
    ),
    "dataset": ("data/*.parquet", BUDGET_FILE, TRAINED_ON_FILE, "summary.json"),
    "space": ("*.py", "requirements.txt"),
}
# Files of an earlier push to delete, because they would be loaded together with the new ones.
STALE = {
    "dataset": ("data/*.parquet", BUDGET_FILE, TRAINED_ON_FILE, "summary.json", PICTURE),
    "model": (
        *(IMAGE_PROCESSOR_FILE, TRAINED_ON_FILE, "onnx/*.onnx", "onnx/*.json", COMMITTEE_FILE, MEMBER_FOLDERS),
        PICTURE,
    ),
}
ROWS = 5000  # most rows in a parquet file
METRIC = Path(__file__).parents[1] / "evaluation" / "irstd"
METRIC_APP = """import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load("{repo_id}"))
"""


def push_run(
    folder: str | Path,
    repo_id: str,
    base_model_id: str | None = None,
    private: bool | None = None,
    pictures: bool = True,
) -> str:
    """
    Push the teacher, stand-alone teacher or student in a run's folder, with a model card; see [`push_folder`].

    Args:
        folder: with the model and its metrics.json.
        repo_id: `org/name`; the repository is created if it doesn't exist.
        base_model_id: Hub id of a teacher's base model, needed if the base was loaded from a folder.
        private: whether a new repository is private.
        pictures: show predictions for a few test frames in the card. The data's licence must allow it.

    Returns the commit's URL.
    """
    api, base, make_card = HfApi(), None, student_card
    record = read_record(folder, for_others=False)
    kind = kind_of(folder)
    if kind is ModelKind.TEACHER:
        make_card = teacher_card
        config = read_json(Path(folder) / ADAPTER_CONFIG)
        base = base_on_hub(config["base_model_name_or_path"], base_model_id or None)
    elif kind is ModelKind.STAND_ALONE:
        make_card = standalone_card
        base = base_on_hub(record["arguments"].get("base_model"), base_model_id or None)
    provenance = trace(api, folder, base)
    grid = example_pictures(folder, provenance) if pictures else None
    card = make_card(folder, repo_id, provenance, picture=grid is not None)
    return push_folder(folder, repo_id, card, private=private, extra={PICTURE: grid} if grid else None)


def push_folder(
    folder: str | Path,
    repo_id: str,
    card: RepoCard,
    repo_type: str = "model",
    private: bool | None = None,
    extra: dict[str, bytes] | None = None,
) -> str:
    """
    Push a folder to the Hub in one commit, with the card as README.md.

    Pushed are weights, configurations, metrics.json, trained_on.json and the ONNX export in the subfolder `onnx`; not
    checkpoints, caches and other files. The folder isn't changed, but some files are adapted for publishing:

    - paths of this machine are removed;
    - an adapter's configuration names the card's `base_model` and its commit, see [`base_commit`];
    - this project's models and processors get their code for `trust_remote_code=True`.

    An interrupted push leaves the repository as it was and can be repeated. Files of an earlier push that would be
    loaded together with the new ones are deleted.

    Args:
        folder: output of a recipe, or with `data/*.parquet`, or of a metric.
        repo_id: `org/name`; the repository is created if it doesn't exist.
        card: becomes README.md.
        repo_type: `model`, `dataset` or `space`.
        private: whether a new repository is private; by default as the organisation sets it.
        extra: content of further files, by name.

    Returns the commit's URL.

    Raises:
        ConnectionError: if the connection broke.
        FileNotFoundError: if the folder has nothing to push.
        ValueError: if `onnx` holds files of different exports, an adapter's base is not on the Hub, or the repository
            holds an adapter and this is a whole model, or the reverse.
    """
    folder, api = Path(folder), HfApi()
    contents: dict[str, str | bytes] = {path: str(folder / path) for path in _files(folder, repo_type)}
    if ADAPTER_CONFIG in contents:
        for path in [path for path in contents if path.endswith(ADAPTER_CONFIG)]:
            contents[path] = _published_adapter(api, folder / path, card)
    elif repo_type == "model":
        contents = _with_code(folder, contents)
    if METRICS_FILE in contents:
        contents[METRICS_FILE] = _json(without_local_paths(read_json(folder / METRICS_FILE)))
    contents |= {"README.md": str(_with_known_datasets(api, card)).encode(), **(extra or {})}

    sdk = "gradio" if repo_type == "space" else None
    api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, space_sdk=sdk)
    there = api.list_repo_files(repo_id, repo_type=repo_type)
    _check_one_kind(repo_id, contents, there)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(path, content) for path, content in contents.items()
    ]
    for pattern in STALE.get(repo_type, ()):
        stale = [path for path in fnmatch.filter(there, pattern) if path not in contents]
        operations += [CommitOperationDelete(path) for path in stale]
    # `upload_folder` may spread its files over several commits; `create_commit` never does.
    message = f"Push {repo_type} with scalpel-hf"
    try:
        return api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type).commit_url
    except (OSError, ValueError):
        raise
    except Exception as error:  # of the client's HTTP library
        raise ConnectionError(f"{folder} was not pushed to {repo_id} ({error}): push it again") from error


def push_dataset(
    dataset: datasets.Dataset | datasets.DatasetDict,
    repo_id: str,
    split: str = "train",
    license: str = "other",
    private: bool | None = None,
    budget: LabelBudget | None = None,
    run: str | Path | None = None,
) -> str:
    """
    Push a data set as parquet files that contain the images, with a card; see [`push_folder`].

    Args:
        dataset: the data set, or one split of it.
        repo_id: `org/name`; the repository is created if it doesn't exist.
        split: name of the split, if `dataset` is one.
        license: of images and people's labels, as the Hub names it, such as `cc-by-4.0`.
        private: whether a new repository is private.
        budget: how the frames that people labelled were drawn; pushed as label_budget.json.
        run: output folder of `scalpel-hf label`; its summary.json and trained_on.json are pushed, and the card
            describes the run.

    Returns the commit's URL.
    """
    splits = dataset if isinstance(dataset, datasets.DatasetDict) else datasets.DatasetDict({split: dataset})
    if any("label_source" in rows.column_names for rows in splits.values()):
        splits = datasets.DatasetDict({name: _with_label_source(rows) for name, rows in splits.items()})
    record, grid = (read_run(run), read_grid(run)) if run else (None, None)
    card = dataset_card(splits, repo_id, license, budget=budget, run=record, picture=grid is not None)
    extra = ({PICTURE: grid} if grid else {}) | (
        {"summary.json": _json(shown_values(record["summary"]))} if record else {}
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").mkdir()
        for name, rows in splits.items():
            _write_parquet(rows, Path(folder) / "data", str(name))
        if budget is not None:
            budget.save(Path(folder) / BUDGET_FILE)
        if run and (Path(run) / TRAINED_ON_FILE).is_file():
            shutil.copy(Path(run) / TRAINED_ON_FILE, folder)
        return push_folder(folder, repo_id, card, repo_type="dataset", private=private, extra=extra)


def push_metric(repo_id: str, private: bool | None = None) -> str:
    """Push the metric as a Space, for `evaluate.load(repo_id)` on machines without scalpel-hf; see [`push_folder`]."""
    script = (METRIC / "irstd.py").read_text(encoding="utf-8")
    script = re.sub(
        r"^from scalpel_hf\.evaluation\.irstd_metrics import", "from .irstd_metrics import", script, flags=re.M
    )
    card = RepoCard(
        (METRIC / "README.md").read_text(encoding="utf-8").replace("<path to>/scalpel_hf/evaluation/irstd", repo_id)
    )
    card.text = card.text.replace(
        "`scalpel-hf` must be importable. Without", "NumPy and SciPy are all it needs. Without"
    )
    card.data["sdk"], card.data["app_file"] = "gradio", "app.py"
    with tempfile.TemporaryDirectory() as folder:
        name = f"{repo_id.split('/')[-1]}.py"  # the name that `evaluate` looks for
        (Path(folder) / name).write_text(script, encoding="utf-8")
        shutil.copy(METRIC.parent / "irstd_metrics.py", folder)
        (Path(folder) / "app.py").write_text(METRIC_APP.format(repo_id=repo_id), encoding="utf-8")
        (Path(folder) / "requirements.txt").write_text("evaluate\nscipy\n", encoding="utf-8")
        return push_folder(folder, repo_id, card, repo_type="space", private=private)


def _files(folder: Path, repo_type: str) -> list[str]:
    files = [path for pattern in FILES[repo_type] for path in folder.glob(pattern)]
    # Subfolders that the file doesn't name are left over from an earlier committee.
    committee = folder / COMMITTEE_FILE
    members = read_json(committee)["members"] if committee.exists() else {}
    files = [path for path in files if not path.parent.match(MEMBER_FOLDERS) or path.parent.name in members]
    if repo_type == "model":
        files += belonging_files(folder / ONNX)  # what `scalpel-hf export` adds, for machines without torch
    found = sorted(path.relative_to(folder).as_posix() for path in files)
    if not any(path.endswith((".safetensors", ".parquet", ".py")) for path in found):
        raise FileNotFoundError(f"{folder} has nothing to push: none of {', '.join(FILES[repo_type])}")
    return found


def _with_label_source(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows with `label_source`, `human` by default: all splits of a repository need the same columns."""
    if "label_source" in rows.column_names:
        return rows
    return rows.add_column("label_source", ["human"] * len(rows))


def _without_local_teacher_paths(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows with paths of this machine removed from the column `teacher`."""
    if "teacher" not in rows.column_names:
        return rows

    def rename(teachers: list[dict[str, Any] | None]) -> dict[str, list]:
        return {"teacher": [row and {**row, "repo": row["repo"] and shown_name(row["repo"])} for row in teachers]}

    return rows.map(rename, input_columns="teacher", batched=True, features=rows.features, keep_in_memory=True)


def _write_parquet(rows: datasets.Dataset, folder: Path, split: str) -> None:
    count = max(1, -(-len(rows) // ROWS))
    for index in range(count):
        shard = _without_local_teacher_paths(rows.shard(count, index, contiguous=True))
        write_parquet_file(shard, folder / f"{split}-{index:05d}-of-{count:05d}.parquet")


def _published_adapter(api: HfApi, path: Path, card: RepoCard) -> bytes:
    base, config = base_on_hub(card.data.get("base_model")), read_json(path)
    trained_on = config.get("revision") if base == config.get("base_model_name_or_path") else None
    revision = base_commit(api, base, trained_on)
    return _json({**config, "base_model_name_or_path": base, "revision": revision})


def _with_code(folder: Path, contents: dict[str, str | bytes]) -> dict[str, str | bytes]:
    """The contents with `auto_map` in the configurations, and the code files that it names."""
    configs = {name: read_json(folder / name) for name in contents if name.endswith("config.json")}
    others = {name: content for name, content in contents.items() if name not in configs}
    published = {name: _json(config) for name, config in published_configs(configs).items()}
    return {**others, **published, **{path.name: str(path) for path in code_files(configs.values())}}


def _check_one_kind(repo_id: str, contents: dict[str, str | bytes], there: list[str]) -> None:
    for own, other in ((ADAPTER_CONFIG, "config.json"), ("config.json", ADAPTER_CONFIG)):
        if own in contents and other in there:
            kind = "a whole model" if other == "config.json" else "an adapter"
            raise ValueError(
                f"{repo_id} holds {kind}, which would be loaded instead of this: push to another repository"
            )


def _with_known_datasets(api: HfApi, card: RepoCard) -> RepoCard:
    """The card without `datasets` that aren't on the Hub: a name like `data/nuaa` may have been that of a folder."""
    card = type(card)(str(card))
    if isinstance(card, ModelCard | DatasetCard):
        known = [name for name in card.data.get("datasets") or [] if api.repo_exists(name, repo_type="dataset")]
        card.data["datasets"] = known or None
    return card


def _json(value: dict) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
