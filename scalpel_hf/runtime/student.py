"""A student that was exported to ONNX, as an object that finds targets in frames."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from scalpel_hf.modeling.frame_reading import ImageLike, read_frame

from .components import Detections, find_detections
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
    """

    normalization: str
    percentiles: tuple[float, ...]
    normalization_inside: bool
    threshold: float
    threshold_inside: bool
    opset: int
    id2label: dict[str, str]
    size_multiple: int = 1

    @classmethod
    def read(cls, path: Path) -> "RuntimeConfig":
        try:
            return cls(**json.loads(path.read_text()))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is no configuration of an exported student: {error}") from error

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


class OnnxStudent:
    """
    An exported student.

    Args:
        model: its ONNX file.
        config: what was exported with it.
        threads: that onnxruntime computes one frame with; its own choice by default.
        providers: onnxruntime's execution providers, in order of preference.
    """

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
        cls, name_or_path: str | Path, file: str = MODEL_FILE, revision: str | None = None, **kwargs: Any
    ) -> "OnnxStudent":
        """
        Load an exported student from a folder or the Hub: from there, or from the folder `onnx` within it.

        Args:
            file: which ONNX file, where there are several; `model_int8.onnx` is the quantised one.
            revision: of the repository on the Hub.
            kwargs: `threads` and `providers`, see the class.

        Raises:
            FileNotFoundError: where there is no such file in the folder or repository.
            ValueError: where runtime.json is not one.
        """
        folder = Path(name_or_path)
        if not folder.is_dir():
            folder = _download(str(name_or_path), file, revision)
        for place in (folder, folder / FOLDER):
            if (place / file).is_file() and (place / CONFIG_FILE).is_file():
                return cls(place / file, RuntimeConfig.read(place / CONFIG_FILE), **kwargs)
        raise FileNotFoundError(
            f"{name_or_path} has no {file} with a {CONFIG_FILE} beside it: export the student with "
            "scripts/export_onnx.py"
        )

    def probabilities(self, frame: ImageLike) -> np.ndarray:
        """Target probability of each pixel, `(H, W)` float32, at the frame's own size. `frame`: a path, PIL image or
        array; see `scalpel_hf.modeling.read_frame`."""
        name = "probabilities" if self.config.threshold_inside else "logits"
        answer = self.session.run([name], {"frames": self.graph_input(frame)})[0][0, 0]
        return answer if self.config.threshold_inside else _sigmoid(answer)

    def graph_input(self, frame: ImageLike) -> np.ndarray:
        """What the graph takes as `frames` for one frame: `(1, 1, H, W)` float32."""
        pixels = read_frame(frame)
        if self.config.normalization_inside:
            x = centred(pixels).astype(np.float32)  # the graph's own normalisation takes the minimum off too
        else:
            x = normalize_frame(pixels, self.config.normalization, self.config.percentiles)
        return x[None, None]

    def detect(self, frame: ImageLike, threshold: float | None = None) -> Detections:
        """Boxes, scores and mask of the targets in a frame; `threshold` is the configuration's unless given."""
        return find_detections(self.probabilities(frame), self.config.threshold if threshold is None else threshold)


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
