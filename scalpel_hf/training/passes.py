"""The order in which a training sees its frames."""

import numpy as np


def shuffled(i: int, count: int, seed: int) -> int:
    """The i-th index of endless passes over `count`, each in an order of its own: a function of its arguments alone."""
    epoch, position = divmod(i, count)
    return int(np.random.default_rng([seed, epoch]).permutation(count)[position])
