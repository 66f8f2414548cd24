"""Writes labelled shards as one data set on disk, shard by shard, so that memory stays bounded."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import datasets
import numpy as np

from scalpel_hf.data.label_sources import BY_PEOPLE, NONE, PSEUDO
from scalpel_hf.utils.files import safe_name, write_json
from scalpel_hf.utils.reading import read_json

KEY_FILE = "pseudo_labels.json"  # in a finished folder: the settings of the run
REVIEW_FOLDER = "review"  # in a finished folder: people's decisions about its frames

Labelled: TypeAlias = datasets.Dataset | datasets.IterableDataset
Decide = Callable[[int, Path], datasets.Dataset]  # writes the labels of a shard to an arrow file, and opens it


def write_arrow(decide: Decide, count: int, folder: Path, fingerprint: str, split: str) -> None:
    """Write a folder for `load_from_disk`, one file for each of `count` shards."""
    files = [f"data-{index:05d}-of-{count:05d}.arrow" for index in range(count)]
    for index, file in enumerate(files):
        last = decide(index, folder / file)
    last.select([]).save_to_disk(str(folder / "empty"))
    state = read_json(folder / "empty" / "state.json")
    state |= {"_data_files": [{"filename": file} for file in files], "_fingerprint": fingerprint, "_split": split}
    shutil.move(folder / "empty" / "dataset_info.json", folder)
    shutil.rmtree(folder / "empty")
    write_json(folder / "state.json", state)


def write_parquet(decide: Decide, count: int, folder: Path, split: str) -> None:
    """Write a folder for `load_dataset`, one parquet file for each of `count` shards."""
    safe_name(split, "the split")
    (folder / "data").mkdir()
    for index in range(count):
        cache_file = folder / "shard.arrow"
        decide(index, cache_file).to_parquet(str(folder / "data" / f"{split}-{index:05d}-of-{count:05d}.parquet"))
        cache_file.unlink()


def load_output(folder: Path) -> Labelled:
    """Load what `write_arrow` or `write_parquet` wrote; parquet files as a stream."""
    if (folder / "state.json").exists():
        return datasets.load_from_disk(str(folder))
    files = str(folder / "data" / "*.parquet")
    return datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)


def column_pairs(path: Path, *names: str) -> Iterator[tuple[Any, ...]]:
    """The named columns of a shard's file, row by row."""
    for row in datasets.Dataset.from_file(str(path)).select_columns(list(names)):
        yield tuple(row[name] for name in names)


def read_run(folder: str | Path) -> dict[str, Any]:
    """
    The record of a finished run: `rules`, `teacher`, and `summary`.

    Skipped frames are listed by name alone, since an error message may contain paths of this machine.
    """
    folder = Path(folder)
    summary = read_json(folder / "summary.json")
    summary["skipped"] = sorted(summary["skipped"])
    return read_json(folder / KEY_FILE) | {"summary": summary}


def read_grid(folder: str | Path) -> bytes | None:
    """The picture grid of a run's report, as the bytes of a PNG file; `None` if there is none."""
    path = Path(folder) / "report" / "grid.png"
    return path.read_bytes() if path.exists() else None


def summarize(dataset: datasets.Dataset | datasets.IterableDataset) -> dict[str, Any]:
    """
    Counts of a labelled data set:

    - `human`, `box`, `point`, `pseudo`, `none`: rows with that `label_source`;
    - `unsure`: rows without a label because the teacher wasn't sure that they are empty;
    - `empty`, `one`, `many`: pseudo-labelled rows with 0, 1, or more objects;
    - `objects`: pseudo-labelled objects; `area_quartiles`: minimum, quartiles and maximum of their areas in pixels.
    """
    sources = dict.fromkeys((*BY_PEOPLE, PSEUDO, NONE), 0)
    counts, areas, unsure = [], [], 0
    plain = dataset.with_format(None) if isinstance(dataset, datasets.Dataset) else dataset
    for row in plain.select_columns(["label_source", "pseudo_objects", "teacher"]):
        sources[row["label_source"]] += 1
        if row["label_source"] == "pseudo":
            counts.append(len(row["pseudo_objects"]["area"]))
            areas += row["pseudo_objects"]["area"]
        unsure += row["label_source"] == "none" and row["teacher"] is not None
    quartiles = [float(q) for q in np.percentile(areas, [0, 25, 50, 75, 100])] if areas else []
    return {
        **sources,
        "unsure": unsure,
        "empty": sum(c == 0 for c in counts),
        "one": sum(c == 1 for c in counts),
        "many": sum(c > 1 for c in counts),
        "objects": len(areas),
        "area_quartiles": quartiles,
    }
