"""Students exported to ONNX, run by onnxruntime."""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scalpel_hf.modeling.frame_io import ImageLike, read_frame

from .components import Detections, find_detections, snap_boxes
from .preprocessing import apply_normalization, centred, normalize_frame, offset_and_scale
from .session import Session
from .settings import CONFIG_FILE, FOLDER, MODEL_FILE, RuntimeConfig, check_belongs, check_weights, is_number
from .tiles import GRID, TILE_SIZE, Tile, check_tile_size, tiles

S = TypeVar("S", bound="_Exported")


class InexactTilesWarning(UserWarning):
    """A frame was computed in tiles, whose result differs from the whole frame's; the message has the remedy."""


class _Exported:
    """
    Base class of exported students.

    Args:
        model: ONNX file.
        config: content of runtime.json.
        threads: number of threads with which onnxruntime computes one frame; by default its own choice.
        providers: onnxruntime's execution providers, in order of preference.
        tile_size: frames with more pixels than a square of this side are split into tiles of at most this size, which
            bounds the memory. A multiple of 32. Where tiles don't give the whole frame's result, the first such frame
            is said in an [`InexactTilesWarning`].

    Raises `ValueError` if the file is not a student's graph or doesn't fit `config`, and for a tile size, number of
    threads or provider that is not possible.
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
        self._warns = not config.exact_tiles
        self.graph = Session(Path(model), config, threads=threads, providers=providers)

    @classmethod
    def from_pretrained(
        cls: type[S],
        name_or_path: str | Path,
        file: str = MODEL_FILE,
        revision: str | None = None,
        hub: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> S:
        """
        Load an exported student from a folder or the Hub, or from its subfolder `onnx`.

        Args:
            name_or_path: folder or repository.
            file: name of the ONNX file; `model_int8.onnx` is the quantised one.
            revision: of the repository.
            hub: `token`, `cache_dir` and `local_files_only` of a repository.
            kwargs: `threads`, `providers` and `tile_size`, see the class.

        Raises:
            FileNotFoundError: where the folder or repository has no such file.
            ValueError: where runtime.json is invalid, belongs to a student for another task or to another ONNX file, or
                where the ONNX file is not a student's graph.
        """
        path, config = _find(name_or_path, file, {"revision": revision, **(hub or {})})
        if config.task != cls.task:
            raise ValueError(f"{name_or_path} was exported for {config.task}, not for {cls.task}")
        return cls(path, config, **kwargs)

    def graph_input(self, frame: ImageLike) -> np.ndarray:
        """The graph's input `frames` for one frame, `(1, 1, H, W)` float32."""
        pixels = read_frame(frame)
        if self.config.normalization_inside:
            x = centred(pixels).astype(np.float32)  # subtracting the minimum doesn't change what the graph computes
        else:
            x = normalize_frame(pixels, self.config.normalization, self.config.percentiles)
        return x[None, None]

    def _predictions(self, pixels: np.ndarray) -> Iterator[tuple[Tile, list[np.ndarray]]]:
        """
        Yields each tile of a frame `(H, W)` with the graph's outputs for it.

        All tiles are normalised by the statistics of the whole frame. Small frames are one tile.
        """
        height, width = pixels.shape
        if pixels.size <= self.tile_size**2:
            (whole,) = tiles(height, width, max(height, width))
            yield whole, self.graph.run(self.graph_input(pixels))
            return
        if self._warns:
            self._warns = False  # once
            needed = math.ceil(math.sqrt(pixels.size) / GRID) * GRID
            message = (
                f"a frame of {height} x {width} pixels is computed in tiles, and with this model tiles differ from the "
                f"whole frame: raise `tile_size` (`--tile-size`) to {needed} if the memory allows it"
            )
            warnings.warn(message, InexactTilesWarning, stacklevel=4)
        inside, lowest = self.config.normalization_inside, float(pixels.min())
        offset, scale = offset_and_scale(pixels, self.config.normalization, self.config.percentiles)
        for tile in tiles(height, width, self.tile_size):
            if inside:
                x = centred(pixels[tile.seen], lowest).astype(np.float32)
            else:
                x = apply_normalization(pixels[tile.seen], offset=offset, scale=scale, lowest=lowest)
            yield tile, self.graph.run(x[None, None], (offset, scale) if inside else None)

    def _threshold(self, threshold: float | None) -> float:
        return self.config.threshold if threshold is None else check_threshold(threshold)


class OnnxStudent(_Exported):
    """
    An exported segmentation student; see the base class for its arguments.

    Examples:
        >>> student = OnnxStudent.from_pretrained("runs/nuaa/student")
        >>> student.probabilities("frame.png").shape
        (64, 96)
    """

    task = "segmentation"

    def probabilities(self, frame: ImageLike) -> np.ndarray:
        """
        Target probability of each pixel, `(H, W)` float32, at the frame's own size.

        Args:
            frame: a path, PIL image or array; see `scalpel_hf.modeling.read_frame`.

        Raises `ValueError` if a probability is NaN.
        """
        pixels = read_frame(frame)
        result = np.empty(pixels.shape, np.float32)
        for tile, (prediction,) in self._predictions(pixels):
            part = prediction[0, 0][tile.inner]
            result[tile.core] = part if self.config.threshold_inside else _sigmoid(part)
        return result

    def detect(self, frame: ImageLike, threshold: float | None = None) -> Detections:
        """
        Boxes, scores and mask of the targets in a frame.

        Args:
            frame: as for [`probabilities`].
            threshold: of the probability; by default the configuration's.

        Raises `ValueError` for a threshold outside of 0 to 1, and if a probability is NaN.
        """
        threshold = self._threshold(threshold)
        return find_detections(self.probabilities(frame), threshold)


class OnnxDetector(_Exported):
    """An exported detection student; see the base class for its arguments."""

    task = "detection"

    def detect(self, frame: ImageLike, threshold: float | None = None) -> Detections:
        """
        Boxes and scores of the targets in a frame, highest score first, without a mask.

        Boxes are rounded to whole pixels and are at least one pixel wide and high. In a frame with tiles, each tile has
        at most the graph's number of boxes.

        Args:
            frame: a path, PIL image or array; see `scalpel_hf.modeling.read_frame`.
            threshold: which scores exceed; by default the configuration's.

        Raises `ValueError` for a threshold outside of 0 to 1, and if a score or box is NaN or infinite.
        """
        threshold, pixels = self._threshold(threshold), read_frame(frame)
        parts = [_in_the_core(tile, pixels.shape, *predictions) for tile, predictions in self._predictions(pixels)]
        scores, boxes = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > threshold]
        return Detections(snap_boxes(boxes[order], *pixels.shape), scores[order], None)


def load_exported(
    name_or_path: str | Path,
    file: str = MODEL_FILE,
    revision: str | None = None,
    hub: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> OnnxStudent | OnnxDetector:
    """
    Load an exported student of either task; arguments and errors as for `from_pretrained`.

    Examples:
        >>> load_exported("runs/nuaa/student").task
        'segmentation'
    """
    path, config = _find(name_or_path, file, {"revision": revision, **(hub or {})})
    return (OnnxDetector if config.task == "detection" else OnnxStudent)(path, config, **kwargs)


def check_threshold(threshold: float) -> float:
    """Returns the threshold; raises `ValueError` unless it is a number from 0 to 1."""
    if not is_number(threshold) or not 0 <= threshold <= 1:
        raise ValueError(f"the threshold is a probability from 0 to 1, got {threshold}")
    return threshold


def _in_the_core(
    tile: Tile, shape: tuple[int, ...], scores: np.ndarray, boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """
    The detections of a tile whose centre lies in the tile's core.

    Args:
        shape: (H, W) of the frame.
        scores: `(1, M)`.
        boxes: `(1, M, 4)`, (x0, y0, x1, y1) in pixels of the tile.

    Returns scores `(N,)` and boxes `(N, 4)` in pixels of the frame.
    """
    scores, boxes = scores[0], boxes[0] + np.array([tile.seen[1].start, tile.seen[0].start] * 2, np.float32)
    centres = boxes[:, :2] / 2 + boxes[:, 2:] / 2  # (x, y)
    kept = np.ones(len(scores), bool)
    for centre, core, length in zip(centres.T, reversed(tile.core), reversed(shape), strict=True):
        kept &= ((centre >= core.start) | (core.start == 0)) & ((centre < core.stop) | (core.stop == length))
    return scores[kept], boxes[kept]


def _find(name_or_path: str | Path, file: str, hub: Mapping[str, Any]) -> tuple[Path, RuntimeConfig]:
    """Path of the ONNX file and content of its runtime.json; raises as `from_pretrained` does."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = _download(str(name_or_path), file, hub)
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
    return 0.5 + 0.5 * np.tanh(0.5 * logits)  # unlike 1 / (1 + exp(-x)), this can't overflow


def _download(repo_id: str, file: str, hub: Mapping[str, Any]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    patterns = [f"{folder}{name}" for folder in ("", f"{FOLDER}/") for name in (file, CONFIG_FILE)]
    try:
        return Path(snapshot_download(repo_id, allow_patterns=patterns, **hub))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(f"{repo_id!r} is neither a folder nor a repository that the Hub gives") from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{repo_id!r} is no folder, and as a repository it is not in the cache, and the Hub can't be reached"
        ) from error
