"""One normalisation, three times: torch for training, NumPy for the runtime, and what the ONNX graph is made of."""

import numpy as np
import pytest
import torch

from scalpel_hf.modeling.normalization import NORMALIZATIONS
from scalpel_hf.modeling.normalization import normalize_frame as by_torch
from scalpel_hf.runtime.preprocessing import normalize_frame as by_numpy


def frames() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    scene = rng.normal(0, 5, (33, 47))
    hot = 14000 + scene
    hot[7, 9], hot[20, 3] = 65535, 0
    return {
        "8 bits": rng.integers(0, 256, (33, 47)).astype(np.uint8),
        "16 bits": np.round(14000 + scene).astype(np.uint16),
        "16 bits with a hot and a dead pixel": np.round(hot).astype(np.uint16),
        "32 bits with an offset": (2**30 + np.round(100 * scene)).astype(np.int32),
        "floating point": (300 + 1e-3 * scene).astype(np.float32),
        "one star on black": np.eye(40, 30, k=50, dtype=np.uint8) + (np.arange(1200).reshape(40, 30) == 500),
        "constant": np.full((5, 4), 12345, np.uint16),
        "one pixel": np.full((1, 1), 7, np.uint8),
        "two pixels": np.array([[3, 9]], np.uint8),
    }


@pytest.mark.parametrize("percentiles", [(1.0, 99.0), (0.0, 100.0), (0.5, 50.0), (60.0, 99.9)])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("name", frames())
def test_numpy_torch_and_the_graph_agree(name: str, normalization: str, percentiles: tuple[float, float]) -> None:
    from scalpel_hf.export.onnx_student import normalize_frames as in_graph

    frame = frames()[name]
    expected = by_torch(torch.from_numpy(frame.astype(np.float64)), normalization, percentiles).float().numpy()
    # All three compute in double precision: what is left is the last digit of float32.
    limits = {"rtol": 2 * np.finfo(np.float32).eps, "atol": 1e-8}
    np.testing.assert_allclose(by_numpy(frame, normalization, percentiles), expected, **limits)
    raw = torch.from_numpy((frame.astype(np.float64) - frame.min()).astype(np.float32))[None, None]
    batch = torch.cat([raw, 3 * raw + 1])  # a linear map of the frame makes no difference, nor does a neighbour
    for prediction in in_graph(batch, normalization, percentiles):
        np.testing.assert_allclose(prediction[0].numpy(), expected, **limits)


def test_16_bits_are_neither_clipped_nor_constant() -> None:
    frame = np.arange(14000, 15000, dtype=np.uint16).reshape(25, 40)
    normalized = by_numpy(frame)
    assert (np.diff(normalized.ravel()) > 0).all()
    assert normalized.dtype == np.float32


def test_an_unknown_normalization_is_named() -> None:
    with pytest.raises(ValueError, match="'minmax'"):
        by_numpy(np.eye(3), "minmax")
