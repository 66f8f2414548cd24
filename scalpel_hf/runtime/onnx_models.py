"""Students that were exported to ONNX, as objects that find targets in frames."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scalpel_hf.modeling.frame_io import ImageLike, read_frame

from .components import Detections, find_detections, snap_boxes
from .preprocessing import apply_normalization, centred, normalize_frame, offset_and_scale
from .session import Session
from .settings import CONFIG_FILE, FOLDER, MODEL_FILE, RuntimeConfig, check_belongs, check_weights, is_number
from .tiles import TILE_SIZE, Tile, check_tile_size, tiles

S = TypeVar("S", bound="_Exported")


class _Exported:
    """
    An exported student, whatever it predicts.

    Args:
        model: its ONNX file.
        config: what was exported with it.
        threads: that onnxruntime computes one frame with; its own choice by default.
        providers: onnxruntime's execution providers, in order of preference.
        tile_size: frames of more pixels than a square of this side are computed in tiles of at most that size, which
            bounds the memory. A multiple of 32.

    Raises `ValueError` where the file is no student's graph, or not what `config` says.
    """

    task: str

    def __init__(
        self,
        model: str | Path,
        config: RuntimeConfig,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        tile_size: int = TILE_SIZE,
    ):
        self.config = config
        self.tile_size = check_tile_size(tile_size)
        self.graph = Session(Path(model), config, threads, providers)

    @classmethod
    def from_pretrained(
        cls: type[S], name_or_path: str | Path, file: str = MODEL_FILE, revision: str | None = None, **kwargs: Any
    ) -> S:
        """
        Load an exported student from a folder or the Hub: from there, or from the folder `onnx` within it.

        Args:
            file: which ONNX file, where there are several; `model_int8.onnx` is the quantised one.
            revision: of the repository on the Hub.
            kwargs: `threads`, `providers` and `tile_size`, see the class.

        Raises:
            FileNotFoundError: where there is no such file in the folder or repository.
            ValueError: where runtime.json is not one, one of a student for another task, or of another export than the
                ONNX file; where that is no student's graph.
        """
        path, config = _find(name_or_path, file, revision)
        if config.task != cls.task:
            raise ValueError(f"{name_or_path} was exported for {config.task}, not for {cls.task}")
        return cls(path, config, **kwargs)

    def graph_input(self, frame: ImageLike) -> np.ndarray:
        """What the graph takes as `frames` for one frame: `(1, 1, H, W)` float32."""
        pixels = read_frame(frame)
        if self.config.normalization_inside:
            x = centred(pixels).astype(np.float32)  # the graph's own normalisation takes the minimum off too
        else:
            x = normalize_frame(pixels, self.config.normalization, self.config.percentiles)
        return x[None, None]

    def _predictions(self, pixels: np.ndarray) -> Iterator[tuple[Tile, list[np.ndarray]]]:
        """The graph's outputs for each tile of a frame, normalised as the frame is; of a small one, for all of it."""
        height, width = pixels.shape
        if pixels.size <= self.tile_size**2:
            (whole,) = tiles(height, width, max(height, width))
            yield whole, self.graph.run(self.graph_input(pixels))
            return
        inside, lowest = self.config.normalization_inside, float(pixels.min())
        offset, scale = offset_and_scale(pixels, self.config.normalization, self.config.percentiles)
        for tile in tiles(height, width, self.tile_size):
            if inside:
                x = centred(pixels[tile.seen], lowest).astype(np.float32)
            else:
                x = apply_normalization(pixels[tile.seen], offset, scale, lowest)
            yield tile, self.graph.run(x[None, None], (offset, scale) if inside else None)

    def _threshold(self, threshold: float | None) -> float:
        return self.config.threshold if threshold is None else check_threshold(threshold)


class OnnxStudent(_Exported):
    """An exported student that segments. Args: see the base class."""

    task = "segmentation"

    def probabilities(self, frame: ImageLike) -> np.ndarray:
        """Target probability of each pixel, `(H, W)` float32, at the frame's own size. `frame`: a path, PIL image or
        array; see `scalpel_hf.modeling.read_frame`. Raises `ValueError` where one is not a number."""
        pixels = read_frame(frame)
        result = np.empty(pixels.shape, np.float32)
        for tile, (prediction,) in self._predictions(pixels):
            part = prediction[0, 0][tile.inner]
            result[tile.core] = part if self.config.threshold_inside else _sigmoid(part)
        return result

    def detect(self, frame: ImageLike, threshold: float | None = None) -> Detections:
        """Boxes, scores and mask of the targets in a frame; `threshold` is the configuration's unless given."""
        threshold = self._threshold(threshold)
        return find_detections(self.probabilities(frame), threshold)


class OnnxDetector(_Exported):
    """An exported student that detects. Args: see the base class."""

    task = "detection"

    def detect(self, frame: ImageLike, threshold: float | None = None) -> Detections:
        """
        Boxes and scores of the targets in a frame, best first, without a mask.

        Edges are moved to the nearest edges between pixels, at least one apart. `threshold`, which scores exceed, is
        the configuration's unless given. A frame in tiles has the graph's number of boxes a tile.
        """
        threshold, pixels = self._threshold(threshold), read_frame(frame)
        parts = [_in_the_core(tile, pixels.shape, *predictions) for tile, predictions in self._predictions(pixels)]
        scores, boxes = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > threshold]
        return Detections(snap_boxes(boxes[order], *pixels.shape), scores[order], None)


def load_exported(
    name_or_path: str | Path, file: str = MODEL_FILE, revision: str | None = None, **kwargs: Any
) -> OnnxStudent | OnnxDetector:
    """The exported student in a folder or repository, of the kind that its configuration says; arguments and errors as
    of `from_pretrained`."""
    path, config = _find(name_or_path, file, revision)
    return (OnnxDetector if config.task == "detection" else OnnxStudent)(path, config, **kwargs)


def check_threshold(threshold: float) -> float:
    """The threshold, if it is a probability; else `ValueError`."""
    if not is_number(threshold) or not 0 <= threshold <= 1:
        raise ValueError(f"the threshold is a probability from 0 to 1, got {threshold}")
    return threshold


def _in_the_core(
    tile: Tile, shape: tuple[int, ...], scores: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores `(N,)` and boxes `(N, 4)`, in the frame's pixels, of a tile's boxes whose centre lies in its core."""
    scores, boxes = scores[0], boxes[0] + np.array([tile.seen[1].start, tile.seen[0].start] * 2, np.float32)
    centres = boxes[:, :2] / 2 + boxes[:, 2:] / 2  # (x, y)
    kept = np.ones(len(scores), bool)
    for centre, core, length in zip(centres.T, reversed(tile.core), reversed(shape), strict=True):
        kept &= ((centre >= core.start) | (core.start == 0)) & ((centre < core.stop) | (core.stop == length))
    return scores[kept], boxes[kept]


def _find(name_or_path: str | Path, file: str, revision: str | None) -> tuple[Path, RuntimeConfig]:
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = _download(str(name_or_path), file, revision)
    for place in (folder, folder / FOLDER):
        if (place / file).is_file() and (place / CONFIG_FILE).is_file():
            config = RuntimeConfig.read(place / CONFIG_FILE)
            check_belongs(place / file, config.files, CONFIG_FILE)
            if config.weights:
                check_weights(place / CONFIG_FILE, config.weights)
            return place / file, config
    raise FileNotFoundError(
        f"{name_or_path} has no {file} with a {CONFIG_FILE} beside it: export the student with `scalpel-hf export`"
    )


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * logits)  # which, unlike 1 / (1 + exp(-x)), can't overflow


def _download(repo_id: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = [f"{folder}{name}" for folder in ("", f"{FOLDER}/") for name in (file, CONFIG_FILE)]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(f"{repo_id!r} is neither a folder nor a repository that the Hub gives") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id!r} is no folder, and as a repository it is not in the cache, and the Hub can't be reached"
        ) from error
