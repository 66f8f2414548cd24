import datasets
import numpy as np


def train_val_split(dataset: datasets.Dataset, fraction: float, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """
    Split rows with a person's mask into those to train on and those that choose the best step.

    The share is drawn by name, so that it doesn't depend on the rows' order; 0 holds out none.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"`validation_fraction` must be at least 0 and below 1, got {fraction}")
    names = dataset["name"][:]
    order = np.argsort(names)
    count = round(fraction * len(names))
    if fraction and not 0 < count < len(names):
        raise ValueError(
            f"{fraction} of {len(names)} frames with a person's mask leaves none to train on or to validate with"
        )
    chosen = set(order[np.random.default_rng(seed).permutation(len(names))[:count]].tolist())
    keep = [i for i in range(len(names)) if i not in chosen]
    return dataset.select(keep), dataset.select(sorted(chosen))
