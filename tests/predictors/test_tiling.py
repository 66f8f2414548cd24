import numpy as np
import pytest
from scipy import ndimage

from scalpel_hf.predictors.tiling import axis_weights, blend_tiles, tile_starts


@pytest.mark.parametrize("length", [1, 31, 64, 65, 100, 112, 113, 500])
@pytest.mark.parametrize("overlap", [0, 1, 16, 40])
def test_tiles_cover_the_axis_and_their_weights_sum_to_one(length: int, overlap: int) -> None:
    tile = 64
    starts = tile_starts(length, tile, overlap)
    size = min(tile, length)
    assert starts[0] == 0 and starts[-1] + size == length
    steps = np.diff(starts)
    assert (steps >= 1).all() and (steps <= tile - overlap).all()
    least = 1 if length <= tile else -(-(length - overlap) // (tile - overlap))
    assert len(starts) == least  # one tile fewer would leave pixels out, or overlap by less
    total = np.zeros(length)
    for start, weights in zip(starts, axis_weights(length, starts, tile), strict=True):
        assert len(weights) == size and (weights > 0).all()
        total[start : start + size] += weights
    np.testing.assert_allclose(total, 1, atol=1e-6)


def test_overlaps_that_no_tile_has() -> None:
    for overlap in (-1, 64, 65):
        with pytest.raises(ValueError, match=f"tiles of 64 pixels can't overlap by {overlap}"):
            tile_starts(100, 64, overlap)


def test_what_every_tile_agrees_on_comes_through_unchanged() -> None:
    frame = np.random.default_rng(0).random((150, 90)).astype(np.float32)
    maps = blend_tiles(lambda tile: np.stack([tile, tile**2]), frame, 64, 16)
    np.testing.assert_allclose(maps, np.stack([frame, frame**2]), atol=1e-6)
    untouched = blend_tiles(lambda tile: tile[None], frame, 150, 16)
    np.testing.assert_array_equal(untouched[0], frame)


def test_every_target_on_a_seam_is_found_once_and_whole() -> None:
    """A detector that, as networks do, is blind at the edge of what it is shown."""

    def detector(tile: np.ndarray) -> np.ndarray:
        probability = np.zeros(tile.shape, np.float32)
        probability[6:-6, 6:-6] = (tile[6:-6, 6:-6] > 100) * 0.95
        return probability[None]

    height, width, tile, overlap = 400, 330, 128, 32
    frame = np.zeros((height + 12, width + 12), np.float32)
    rows, cols = (tile_starts(side, tile, overlap) for side in frame.shape)
    edges = [
        sorted({e for s in starts for e in (s, s + tile)} - {0, side})
        for starts, side in zip((rows, cols), frame.shape, strict=True)
    ]
    truth = np.zeros(frame.shape, bool)
    for y in [*edges[0], 40]:
        for x in [*edges[1], 60]:  # across corners of tiles, across their sides, and where there is no seam
            truth[y - 1 : y + 2, x - 2 : x + 1] = True
    frame[truth] = 200
    mask = blend_tiles(detector, frame, tile, overlap)[0] > 0.5
    np.testing.assert_array_equal(mask, truth)
    assert ndimage.label(truth, np.ones((3, 3)))[1] == (len(edges[0]) + 1) * (len(edges[1]) + 1) >= 30

    alone = np.zeros(frame.shape, bool)  # the same tiles put side by side do cut: the test can fail
    for y in rows:
        for x in cols:
            alone[y : y + tile, x : x + tile] = detector(frame[y : y + tile, x : x + tile])[0] > 0.5
    assert (alone != truth).any()
