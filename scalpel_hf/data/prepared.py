from pathlib import Path

import datasets


def load_prepared(name_or_path: str | Path) -> datasets.DatasetDict | datasets.Dataset:
    """
    A data set made by `scripts/prepare.py` or `scripts/pseudo_label.py`: a folder, or a repository on the Hub.

    Raises `ValueError` naming the folder and how it is made where there is none.
    """
    path = Path(name_or_path)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return datasets.load_from_disk(str(path))
    if path.exists() or not name_or_path or str(name_or_path).count("/") != 1:
        raise ValueError(f"{str(name_or_path)!r} holds no data set: make one with scripts/prepare.py --out {path}")
    return datasets.load_dataset(str(name_or_path))
