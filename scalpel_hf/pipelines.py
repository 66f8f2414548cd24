"""`pipeline("infrared-small-target-detection", model=...)`: frames in, targets out, with a teacher or a student."""

import urllib.request
import warnings
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from transformers import AutoModel, AutoModelForSemanticSegmentation
from transformers.pipelines.base import Pipeline
from transformers.pipelines.pt_utils import KeyDataset

from .evaluation.irstd_metrics import EIGHT_CONNECTED
from .modeling.image_processing_infrared import InfraredImageProcessor
from .modeling.normalization import ImageLike, read_frame
from .modeling.processing_scalpel_sam import ScalpelSamProcessor
from .modeling.whole_weights import load_whole
from .predictors.strict_loading import load_image_processor, loading

KEYS = ("score", "label", "box", "mask")


class Target(Mapping[str, Any]):
    """
    A mapping of `score`, `label`, `box` and `mask`, of which the mask is kept as large as the box.

    `target["mask"]` makes an image of the frame's size of it each time: of thousands of targets in a large frame all
    such images together would take gigabytes.

    Args:
        score: the mean probability inside.
        place: rows and columns of the box in the frame.
        inside: the target's pixels in the box, bool, its shape.
        frame_size: height and width of the frame.
    """

    def __init__(self, score: float, place: tuple[slice, slice], inside: np.ndarray, frame_size: tuple[int, int]):
        rows, columns = place
        self.box = {"xmin": columns.start, "ymin": rows.start, "xmax": columns.stop, "ymax": rows.stop}
        self.score, self.label = score, "target"
        self.frame_size = frame_size
        self._inside = np.packbits(inside)

    @property
    def mask(self) -> Image.Image:
        """A PIL image of the frame's size, 255 inside the target and 0 outside."""
        height, width = self.box["ymax"] - self.box["ymin"], self.box["xmax"] - self.box["xmin"]
        inside = np.unpackbits(self._inside, count=height * width).reshape(height, width)
        mask = Image.new("L", self.frame_size[::-1])
        mask.paste(Image.fromarray(inside * np.uint8(255)), (self.box["xmin"], self.box["ymin"]))
        return mask

    def __getitem__(self, key: str) -> Any:
        if key not in KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(KEYS)

    def __len__(self) -> int:
        return len(KEYS)

    def __repr__(self) -> str:
        size = f"{self.frame_size[1]}x{self.frame_size[0]}"
        return f"{{'score': {self.score}, 'label': {self.label!r}, 'box': {self.box}, 'mask': <L image {size}>}}"


TASK = "infrared-small-target-detection"


class InfraredModel:
    """Loads whatever the pipeline runs, and its image processor as `model.image_processor`."""

    @classmethod
    def from_pretrained(cls, name_or_path: str, dtype: Any = None, **kwargs: Any) -> torch.nn.Module:
        """A teacher's adapter with its base, a stand-alone teacher or a segmentation student; see `from_pretrained` of
        transformers for the arguments."""
        from .predictors.committee import other_members
        from .predictors.kinds import HUB_ARGUMENTS, ModelKind, kind_of
        from .predictors.sam import load_adapted

        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        if "revision" in hub:  # `pipeline` hands on one that carries the commit of an adapter's base
            hub["revision"] = str(hub["revision"])
        model: Any
        kind = kind_of(name_or_path, **hub)
        if kind is ModelKind.TEACHER:
            # The adapter stays in float32.
            model, processor = load_adapted(
                name_or_path, dtype=dtype if isinstance(dtype, torch.dtype) else None, **hub
            )
            if others := other_members(name_or_path, **hub):
                warnings.warn(
                    f"{name_or_path} is a committee of {len(others) + 1} teachers, a pipeline runs the first alone: "
                    "`scalpel_hf.Teacher.from_pretrained` loads all",
                    stacklevel=2,
                )
        else:
            auto_class = AutoModelForSemanticSegmentation if kind is ModelKind.SEGMENTATION else AutoModel
            with loading(name_or_path, "config.json"):
                model = load_whole(auto_class.from_pretrained, name_or_path, dtype=dtype, **hub)
            processor = load_image_processor(name_or_path, **hub)
        model.image_processor = processor
        return model


class InfraredSmallTargetPipeline(Pipeline):
    """
    Finds small targets in infrared frames of any size, 8 or 16 bits or floating point, with any model of this project
    that gives masks: a teacher's adapter, a stand-alone teacher, a segmentation student.

    Examples:
        >>> import scalpel_hf  # registers the task
        >>> from transformers import pipeline

        >>> find = pipeline("infrared-small-target-detection", model="runs/nuaa/student")
        >>> targets = find("frame.png", threshold=0.6)
        >>> targets[0]  # doctest: +SKIP
        {'score': 0.93, 'label': 'target', 'box': {'xmin': 55, 'ymin': 31, 'xmax': 58, 'ymax': 34}, 'mask': <Image>}

    A model that is loaded already comes with its processor: `pipeline(task, model=model, image_processor=processor)`.
    """

    _load_tokenizer = _load_feature_extractor = _load_processor = False
    _load_image_processor = _load_video_processor = False

    def __init__(self, model: Any, image_processor: Any = None, processor: Any = None, **kwargs: Any) -> None:
        image_processor = image_processor or processor or getattr(model, "image_processor", None)
        image_processor = getattr(image_processor, "image_processor", image_processor)  # of a ScalpelSamProcessor
        if isinstance(image_processor, str | PathLike):
            image_processor = InfraredImageProcessor.from_pretrained(image_processor)
        if not isinstance(image_processor, InfraredImageProcessor):
            raise ValueError(
                f"frames are prepared by an InfraredImageProcessor, got {type(image_processor).__name__}: pass the "
                "model's as `image_processor`"
            )
        if type(model).__name__.endswith("ForObjectDetection"):
            raise ValueError(f"{type(model).__name__} gives no masks: use it with `pipeline('object-detection')`")
        super().__init__(model=model.eval(), image_processor=image_processor, **kwargs)

    def _sanitize_parameters(
        self, threshold: float | None = None, timeout: float | None = None
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if threshold is not None and not 0 <= threshold < 1:
            raise ValueError(f"`threshold` is a probability of at least 0 and below 1, got {threshold}")
        preprocess = {} if timeout is None else {"timeout": timeout}
        postprocess = {} if threshold is None else {"threshold": threshold}
        return preprocess, {}, postprocess

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """
        The targets in a frame, or in each of several.

        Args:
            inputs: a frame as path, URL, file's bytes, PIL image, array or tensor; or a list, tuple, generator or data
                set of such, which may be empty: a `datasets.Dataset` with a column `image`, or
                `KeyDataset(dataset, column)` for another. Frames may differ in size.
            threshold (`float`, defaults to 0.5): probability above which a pixel is target.
            batch_size (`int`, defaults to 1): frames a forward pass; those of one size go through the model together,
                and the predictions don't depend on it.
            timeout (`float`, *optional*): seconds to wait for a URL.

        Returns:
            For a frame a list of targets, best first, for a list of frames a list of such, for others an iterator. A
            target is a mapping, a [`Target`], of `score`, the mean probability inside it; `label`, "target"; `box`, a
            dict of `xmin`, `ymin`, `xmax`, `ymax` in pixels, the edges after the last pixel, so that a single pixel has
            a box of 1 x 1; and `mask`, a PIL image of the frame's size, 255 inside the target and 0 outside, which is
            made when it is asked for. Targets are 8-connected.

        Raises `OSError` and `ValueError` as [`read_frame`] does; either message names the file.
        """
        import datasets  # slow to import

        from .data.image_cells import undecoded
        from .data.prepared import check_is_one_split

        check_is_one_split(inputs)
        if "image" not in (getattr(inputs, "column_names", None) or ["image"]):
            raise ValueError(
                f"the data set has the columns {', '.join(inputs.column_names)} and no `image`: pass "
                "`KeyDataset(dataset, column)` of transformers.pipelines.pt_utils"
            )
        if isinstance(inputs, datasets.Dataset):
            inputs = KeyDataset(undecoded(inputs), "image")
        elif isinstance(inputs, datasets.IterableDataset):
            inputs = (row["image"] for row in undecoded(inputs))
        elif isinstance(inputs, tuple) or getattr(inputs, "ndim", 0) == 4:
            inputs = list(inputs)
        if isinstance(inputs, list | KeyDataset) and not len(inputs):  # into which transformers' own looks for messages
            self._sanitize_parameters(**{key: kwargs[key] for key in ("threshold", "timeout") if key in kwargs})
            return [] if isinstance(inputs, list) else iter(())
        return super().__call__(inputs, **kwargs)

    def preprocess(self, image: ImageLike, timeout: float | None = None) -> dict[str, Any]:
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            with urllib.request.urlopen(image, timeout=timeout) as response:
                image = response.read()
        return {"inputs": dict(self.image_processor(image, return_tensors="pt"))}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, list[torch.Tensor]]:
        inputs = model_inputs["inputs"]
        frames: list[dict[str, torch.Tensor]] = inputs if isinstance(inputs, list) else [inputs]
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, frame in enumerate(frames):
            by_size.setdefault(tuple(frame["original_sizes"][0].tolist()), []).append(index)
        maps: dict[int, torch.Tensor] = {}
        for indices in by_size.values():
            batch = {name: torch.cat([frames[index][name] for index in indices]) for name in frames[0]}
            maps.update(zip(indices, self._probabilities(batch), strict=True))
        return {"probabilities": [maps[index] for index in range(len(frames))]}

    def _probabilities(self, batch: dict[str, torch.Tensor]) -> Iterable[torch.Tensor]:
        """Probability maps (H, W) of frames of one size."""
        pixel_values = batch["pixel_values"].to(self.dtype)
        if self.image_processor.sam_size is None:
            outputs = self.model(pixel_values=pixel_values)
            return self.image_processor.post_process_probabilities(outputs, batch["original_sizes"])
        outputs = self.model(
            pixel_values=pixel_values,
            frames=batch["frames"],
            frame_boxes=batch["frame_boxes"],
            multimask_output=False,
        )
        mask_grid = getattr(self.model.config, "mask_grid", None)  # an adapter's base doesn't have it
        processor = ScalpelSamProcessor(self.image_processor, mask_grid)
        return processor.post_process_probabilities(outputs, batch["original_sizes"])

    def postprocess(self, model_outputs: dict[str, Any], threshold: float = 0.5) -> list[Target]:
        prob = model_outputs["probabilities"][0].float().numpy()
        labels, count = ndimage.label(prob > threshold, structure=EIGHT_CONNECTED)
        scores = np.atleast_1d(ndimage.mean(prob, labels, np.arange(1, count + 1)))
        places = ndimage.find_objects(labels)
        return [
            Target(float(scores[index]), places[index], labels[places[index]] == index + 1, prob.shape)
            for index in np.argsort(-scores, kind="stable")
        ]


def to_8_bits(frame: ImageLike) -> Image.Image:
    """
    A frame as an 8-bit image, its darkest pixel 0 and its brightest 255, for transformers' stock pipelines: they turn
    images into RGB, which cuts 16-bit values at 255. It leaves 256 steps; [`InfraredSmallTargetPipeline`] needs no such
    thing.
    """
    array = read_frame(frame).astype(np.float64)
    array -= array.min()
    return Image.fromarray(np.rint(array * (255 / (array.max() or 1))).astype(np.uint8))
