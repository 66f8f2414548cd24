"""A trained teacher: an adapted Segment Anything model that predicts targets in frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from peft import PeftModel, get_model_status
from torch import Tensor
from transformers.image_processing_utils import BatchFeature

from scalpel_hf.adapter.call import link_frames
from scalpel_hf.adapter.config import record_base
from scalpel_hf.adapter.families import base_of, family_of, input_size
from scalpel_hf.adapter.layer import asks_sam, outputs_without_sam, prompt_free_logits
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.utils.files import as_umask_says, write_json
from scalpel_hf.utils.reading import read_json

from .feature_cache import FeatureCache, FrozenFeatures
from .prediction import Prediction, fingerprint_of
from .pushing import FromFolder
from .strict_loading import ADAPTER_CONFIG, COMMITTEE_FILE
from .student import SegmentationStudent
from .tiling import blend_tiles

DEFAULT = "default"  # PEFT's name of the adapter whose files lie in a folder itself

# Fields of an adapter's configuration on which its predictions don't depend.
IRRELEVANT_FIELDS = (
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "peft_version",
    "revision",
    "task_type",
)

FLIP_AXES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (0, 1))  # of the frame and its three mirror images


class Teacher(FromFolder):
    """
    An adapted Segment Anything model with its image processor.

    Args:
        model: a `PeftModel` around a Segment Anything model.
        processor: its `sam_size` must be the model's input size.
        feature_cache_dir: folder of a [`FeatureCache`] of the encoder's frozen features; by default there is none.
        flips: test-time augmentation: average the probabilities of the frame and its three mirror images.
        feature_cache_dtype: precision of the cached features, `float16` or `float32`.
        feature_cache_bytes: largest size of the cache; 0 makes it read-only, `None` unlimited.
        scales: test-time augmentation: average the probabilities of the frame resampled by these factors. The encoder
            runs once for all scales, since it resizes every frame to its input size; operators and mask level run on
            the resampled frames.
        tile_size: a frame with a longer side is cut into overlapping tiles of this many pixels, which are predicted one
            by one and blended. By default the model's input size.

    Raises `ValueError` if the processor doesn't fit the model, or a scale isn't positive.

    Examples:
        >>> teacher = Teacher.from_pretrained("runs/nuaa/teacher", flips=True)  # doctest: +SKIP
        >>> teacher.probabilities("frame.png").shape  # doctest: +SKIP
        (256, 256)
    """

    def __init__(
        self,
        model: PeftModel,
        processor: InfraredImageProcessor,
        feature_cache_dir: str | Path | None = None,
        flips: bool = False,
        feature_cache_dtype: str = "float16",
        feature_cache_bytes: int | None = None,
        scales: Sequence[float] = (1.0,),
        tile_size: int | None = None,
    ):
        base = base_of(model)
        size = input_size(base)
        if processor.sam_size != size:
            raise ValueError(f"the processor resizes frames to {processor.sam_size} pixels, but the model takes {size}")
        if tuple(processor.sam_mean) != family_of(base).mean:
            raise ValueError(
                f"the processor's channel means are {processor.sam_mean}, but {type(base).__name__} takes "
                f"{family_of(base).mean}: make the processor with `InfraredImageProcessor(**sam_input(base))`"
            )
        if not scales or min(scales) <= 0:
            raise ValueError(f"`scales` must be positive factors, got {tuple(scales)}")
        self.model, self.processor, self.flips = model.eval(), processor, flips
        self.scales, self.tile_size = tuple(float(s) for s in scales), tile_size or size
        self.frozen = FrozenFeatures(model)
        self.cache: FeatureCache | None = None
        if feature_cache_dir:
            self.cache = FeatureCache(
                self.frozen, feature_cache_dir, dtype=feature_cache_dtype, max_bytes=feature_cache_bytes
            )

    def __getstate__(self) -> dict[str, Any]:
        """For pickle: without `frozen`, which holds functions, and with the cache's settings in its place."""
        cache = self.cache and (self.cache.folder, self.cache.dtype, self.cache.max_bytes)
        return {**vars(self), "frozen": None, "cache": cache}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.frozen = FrozenFeatures(self.model)
        self.cache = FeatureCache(self.frozen, *state["cache"]) if state["cache"] else None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | Sequence[str | Path],
        base: str | Path | None = None,
        *,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | None = None,
        device_map: str | torch.device | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "Teacher":
        """
        Load an adapter, its base model and its processor from a folder or the Hub.

        Args:
            name_or_path: a folder or a repository. Several of them, or one that holds a committee, give a
                [`Committee`].
            base: folder or repository of the base model, if not the adapter's `base_model_name_or_path`.
            revision: of the adapter's repository. The base's revision is recorded in the adapter's configuration.
            subfolder: of the folder or repository, in which the adapter lies.
            token, cache_dir, local_files_only: of `huggingface_hub`, for adapter and base.
            dtype: of the base's weights, such as `torch.bfloat16`; the adapter's stay in float32.
            device_map: a device for the whole model, also as `{"": device}`, or `"auto"`: the GPU if there is one.
            kwargs: `feature_cache_dir`, `flips`, `scales` and further arguments of [`Teacher`].

        Raises `ValueError` or `OSError`, which name the folder or repository, if it holds no adapter or a damaged one,
        or if the base model can't be loaded.
        """
        from .committee import Committee, load_members  # committee.py imports this module

        names = [name_or_path] if isinstance(name_or_path, str | Path) else list(name_or_path)
        given = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        given["subfolder"] = subfolder
        hub = {key: value for key, value in given.items() if value}
        members = [member for name in names for member in load_members(name, base, dtype, hub=hub, settings=kwargs)]
        first = members[0]
        teacher = first if len(members) == 1 and isinstance(first, Teacher) else Committee(members)
        if len(names) == 1:
            teacher.remember(Path(names[0]) / subfolder if subfolder else names[0])
        device = device_map[""] if isinstance(device_map, dict) else device_map
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return teacher if device is None else teacher.to(device)

    def to(self, device: torch.device | str) -> "Teacher":
        """Move the model to a device, and return self."""
        self.model.to(device)
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """
        Write the adapter's weights (safetensors) and configuration, and the processor; not the base model.

        adapter_config.json records where the base is: its Hub id and commit, or the absolute path of its folder.

        Raises `ValueError` if the active adapter isn't the one that PEFT calls "default", which a folder holds.
        """
        if self.model.active_adapter != DEFAULT:
            raise ValueError(
                f"the active adapter is {self.model.active_adapter!r}, and a teacher's folder holds the one called "
                f"{DEFAULT!r}: build the teacher with `get_peft_model(base, config)`, which calls it so"
            )
        (Path(folder) / COMMITTEE_FILE).unlink(missing_ok=True)  # of a committee saved there before
        for config in self.model.peft_config.values():
            record_base(config, self.model.get_base_model())
        self.model.save_pretrained(str(folder), selected_adapters=[DEFAULT])
        config_file = Path(folder) / ADAPTER_CONFIG
        content = read_json(config_file)
        if isinstance(content["target_modules"], list):  # LoRA's, which PEFT writes from a set, in any order
            write_json(config_file, {**content, "target_modules": sorted(content["target_modules"])})
        self.processor.save_pretrained(str(folder))
        as_umask_says(Path(folder), "*.safetensors")

    @property
    def members(self) -> "list[Teacher | SegmentationStudent]":
        """The members of a [`Committee`]; of a single teacher, the teacher itself."""
        return [self]

    @property
    def one_model(self) -> PeftModel:
        """The model, for callers that can use only one; `ValueError` for a [`Committee`] of several."""
        return self.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def __call__(self, frame: Any) -> np.ndarray:
        """The same as [`Teacher.probabilities`]."""
        return self.probabilities(frame)

    def probabilities(self, frame: Any) -> np.ndarray:
        """
        Target probability of each pixel, `(H, W)` float32, at the frame's own size.

        Args:
            frame: a path, `PIL.Image` or array `(H, W)`, see [`InfraredImageProcessor`].
        """
        return self.predict([frame])[0].probability

    @torch.no_grad()
    def predict(self, frames: Sequence[Any]) -> list[Prediction]:
        """
        Predictions for frames of any sizes, in their order. Frames of one size form batches of `at_a_time`.

        Args:
            frames: paths, images or arrays `(H, W)`, see [`InfraredImageProcessor`].
        """
        arrays = [read_frame(frame) for frame in frames]
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for index, array in enumerate(arrays):
            by_shape.setdefault(array.shape, []).append(index)
        predictions: dict[int, Prediction] = {}
        for shape, indices in by_shape.items():
            if max(shape) > self.tile_size:
                predictions |= {i: self._predict_tiled(arrays[i]) for i in indices}
                continue
            for start in range(0, len(indices), self.at_a_time):
                same = indices[start : start + self.at_a_time]
                predictions |= zip(same, self._predict_untiled([arrays[i] for i in same]), strict=True)
        return [predictions[index] for index in range(len(arrays))]

    @property
    def at_a_time(self) -> int:
        """
        Largest batch. On a CPU it is 1: the activations of one frame fit into the CPU's cache; in a batch of eight each
        frame takes half as long again (MobileSAM at 512 pixels).
        """
        return 1 if self.device.type == "cpu" else 64

    def _predict_untiled(self, frames: list[np.ndarray]) -> list[Prediction]:
        inputs, embeddings = self._encode(frames)
        moments = self._moments(frames, inputs, embeddings).numpy(force=True)
        spread = np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 0)) if self._num_views > 1 else [None] * len(frames)
        return [Prediction(*parts) for parts in zip(moments[0], spread, strict=True)]

    def _predict_tiled(self, frame: np.ndarray) -> Prediction:
        def predict(tile: np.ndarray) -> np.ndarray:
            return self._moments([tile], *self._encode([tile]))[:, 0].numpy(force=True)

        mean, square = blend_tiles(predict, frame, tile=self.tile_size, overlap=self.tile_size // 8)
        square -= mean**2
        return Prediction(mean, np.sqrt(np.maximum(square, 0, out=square), out=square) if self._num_views > 1 else None)

    @property
    def _num_views(self) -> int:
        return (4 if self.flips else 1) * len(self.scales)

    def _moments(self, frames: list[np.ndarray], inputs: BatchFeature, embeddings: Any) -> Tensor:
        """
        Mean and mean square, `(2, B, H, W)`, of the probabilities over the views of frames of one size.

        `inputs` and `embeddings` are those of the frames themselves, the first view.
        """
        total = torch.zeros(2, len(frames), *frames[0].shape, device=self.device)
        for axes in FLIP_AXES if self.flips else FLIP_AXES[:1]:
            if axes:
                inputs, embeddings = self._encode([np.flip(frame, axes).copy() for frame in frames])
            for scale in self.scales:
                view = self._decode(inputs, embeddings, scale).flip([axis + 1 for axis in axes])
                total += torch.stack([view, view**2])
        return total / self._num_views

    def _encode(self, frames: list[np.ndarray]) -> tuple[BatchFeature, Any]:
        """The processor's output for frames of one size, and SAM's image embeddings, if the model uses them."""
        inputs = self.processor(frames, return_tensors="pt")
        on_device = BatchFeature({key: inputs[key].to(self.device) for key in ("frames", "frame_boxes")})
        return on_device, self._embeddings(inputs) if asks_sam(self.model) else None

    def _embeddings(self, inputs: BatchFeature) -> Any:
        """SAM's image embeddings for the processor's output."""
        if self.cache is None:
            states = self.frozen.states(inputs["pixel_values"].to(self.device))
        else:
            states = torch.stack([self.cache.get(image) for image in inputs["pixel_values"]]).to(self.device)
        frames, boxes = (inputs[key].to(self.device) for key in ("frames", "frame_boxes"))
        return self.frozen.embeddings(states, frames, boxes)

    def _decode(self, inputs: BatchFeature, embeddings: Any, scale: float) -> Tensor:
        """Probabilities `(B, H, W)` at the frames' size, computed on the frames resampled by `scale`."""
        frames, boxes = inputs["frames"], inputs["frame_boxes"]
        size = frames.shape[-2:]
        scaled = frames if scale == 1 else _resize(frames, [max(1, round(side * scale)) for side in size])
        if embeddings is None:
            logits = outputs_without_sam(self.model, scaled)["logits"]  # (B, 1, h, w)
        else:
            link_frames(embeddings, scaled, frame_boxes=boxes, input_size=self.frozen.input_size)
            logits = prompt_free_logits(self.model, embeddings)
        probability = torch.sigmoid(logits.float())
        return (probability if scale == 1 else _resize(probability, size))[:, 0]

    def fingerprint(self) -> str:
        """
        Hash of everything that predictions depend on: weights and configurations of base and adapters, which of these
        are active, processor, flips, scales, tile size, and the cache's precision.
        """
        status = get_model_status(self.model)
        adapters = {name: c.to_dict() for name, c in self.model.peft_config.items()}
        settings = {
            "processor": self.processor.to_dict(),
            "encoder": self.frozen.config,
            "adapters": {
                n: {k: _sorted_if_set(v) for k, v in c.items() if k not in IRRELEVANT_FIELDS}
                for n, c in adapters.items()
            },
            "active": [status.active_adapters, status.enabled],
            "views": [self.flips, self.scales, self.tile_size],
            "cache": self.cache and self.cache.dtype,
        }
        return fingerprint_of(self.model, settings)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", antialias=True)


def _sorted_if_set(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value
