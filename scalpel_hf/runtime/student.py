"""Students that were exported to ONNX, as objects that find targets in frames."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime

from scalpel_hf.modeling.frame_reading import ImageLike, read_frame

from .components import Detections, find_detections, snap_boxes
from .normalization import centred, normalize_frame

CONFIG_FILE = "runtime.json"
MODEL_FILE = "model.onnx"
INT8_FILE = "model_int8.onnx"
FOLDER = "onnx"  # of these files within a student's own folder or repository


@dataclass(frozen=True)
class RuntimeConfig:
    """
    What runs a student besides its ONNX file, kept beside it as runtime.json.

    Args:
        normalization, percentiles: of the frames; see [`normalize_frame`].
        normalization_inside: whether the graph normalises, and takes frames as they were read.
        threshold: probability above which a pixel is target.
        threshold_inside: whether the graph gives `probabilities` and `mask` rather than `logits`.
        opset: of the ONNX graph.
        id2label: names of the classes.
        size_multiple: heights and widths that the graph takes are multiples of it.
        task: `segmentation`, or `detection` of a graph that gives `scores` and `boxes`.
    """

    normalization: str
    percentiles: tuple[float, ...]
    normalization_inside: bool
    threshold: float
    threshold_inside: bool
    opset: int
    id2label: dict[str, str]
    size_multiple: int = 1
    task: str = "segmentation"

    @classmethod
    def read(cls, path: Path) -> "RuntimeConfig":
        try:
            return cls(**json.loads(path.read_text()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is no configuration of an exported student: {error}") from error

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


S = TypeVar("S", bound="_Exported")


class _Exported:
    """
    An exported student, whatever it answers with.

    Args:
        model: its ONNX file.
        config: what was exported with it.
        threads: that onnxruntime computes one frame with; its own choice by default.
        providers: onnxruntime's execution providers, in order of preference.
    """

    task: str

    def __init__(
        self,
        model: str | Path,
        config: RuntimeConfig,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        self.config = config
        self.session = onnxruntime.InferenceSession(str(model), options, providers=list(providers))

    @classmethod
    def from_pretrained(
        cls: type[S], name_or_path: str | Path, file: str = MODEL_FILE, revision: str | None = None, **kwargs: Any
    ) -> S:
        """
        Load an exported student from a folder or the Hub: from there, or from the folder `onnx` within it.

        Args:
            file: which ONNX file, where there are several; `model_int8.onnx` is the quantised one.
            revision: of the repository on the Hub.
            kwargs: `threads` and `providers`, see the class.

        Raises:
            FileNotFoundError: where there is no such file in the folder or repository.
            ValueError: where runtime.json is not one, or one of a student for another task.
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


class OnnxStudent(_Exported):
    """An exported student that segments. Args: see the base class."""

    task = "segmentation"

    def probabilities(self, frame: ImageLike) -> np.ndarray:
        """Target probability of each pixel, `(H, W)` float32, at the frame's own size. `frame`: a path, PIL image or
        array; see `scalpel_hf.modeling.read_frame`."""
        name = "probabilities" if self.config.threshold_inside else "logits"
        answer = self.session.run([name], {"frames": self.graph_input(frame)})[0][0, 0]
        return answer if self.config.threshold_inside else _sigmoid(answer)

    def detect(self, frame: ImageLike, threshold: float | None = None) -> Detections:
        """Boxes, scores and mask of the targets in a frame; `threshold` is the configuration's unless given."""
        return find_detections(self.probabilities(frame), self.config.threshold if threshold is None else threshold)


class OnnxDetector(_Exported):
    """An exported student that detects. Args: see the base class."""

    task = "detection"

    def detect(self, frame: ImageLike, threshold: float | None = None) -> Detections:
        """
        Boxes and scores of the targets in a frame, best first, without a mask.

        Edges are moved to the nearest edges between pixels, at least one apart. `threshold`, which scores exceed, is
        the configuration's unless given.
        """
        x = self.graph_input(frame)
        scores, boxes = (answer[0] for answer in self.session.run(["scores", "boxes"], {"frames": x}))
        kept = scores > (self.config.threshold if threshold is None else threshold)
        return Detections(snap_boxes(boxes[kept], *x.shape[2:]), scores[kept], None)


def load_exported(
    name_or_path: str | Path, file: str = MODEL_FILE, revision: str | None = None, **kwargs: Any
) -> OnnxStudent | OnnxDetector:
    """The exported student in a folder or repository, of the kind that its configuration says; arguments and errors as
    of `from_pretrained`."""
    path, config = _find(name_or_path, file, revision)
    return (OnnxDetector if config.task == "detection" else OnnxStudent)(path, config, **kwargs)


def _find(name_or_path: str | Path, file: str, revision: str | None) -> tuple[Path, RuntimeConfig]:
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = _download(str(name_or_path), file, revision)
    for place in (folder, folder / FOLDER):
        if (place / file).is_file() and (place / CONFIG_FILE).is_file():
            return place / file, RuntimeConfig.read(place / CONFIG_FILE)
    raise FileNotFoundError(
        f"{name_or_path} has no {file} with a {CONFIG_FILE} beside it: export the student with scripts/export_onnx.py"
    )


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * logits)  # which, unlike 1 / (1 + exp(-x)), can't overflow


def _download(repo_id: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    patterns = [f"{folder}{name}" for folder in ("", f"{FOLDER}/") for name in (file, CONFIG_FILE)]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(f"{repo_id!r} is neither a folder nor a repository that the Hub gives") from error
