"""Image processor for infrared frames: frames to model inputs without clipping, and outputs to masks and boxes."""

import math
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs

from .custom_code import CustomCodeMixin
from .normalization import NORMALIZATIONS, SAM_MEAN, SAM_STD, ImageLike, normalize_frame, read_frame, to_sam_input
from .segmentation_maps import IGNORE_INDEX, as_foreground, class_maps, read_segmentation_maps


class InfraredImageKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """Settings of [`InfraredImageProcessor`] that `from_pretrained` and a call can override."""

    normalization: str
    percentiles: tuple[float, float]
    sam_size: int | None
    num_channels: int
    size_divisor: int | None


# What transformers passes besides settings: the keys of its files.
KEYS_OF_FILES = ("auto_map", "feature_extractor_type", "image_processor_type", "processor_class")


class InfraredImageProcessor(CustomCodeMixin, BaseImageProcessor):
    """Prepares infrared frames, 8 or 16 bits or floating point, for students and for SAM teachers.

    Each frame is normalised by its own statistics ([`normalize_frame`]) at its native resolution and never clipped.

    Args:
        normalization: `"zscore"`, `"percentile"` or `"range"`, see [`normalize_frame`].
        percentiles: (lo, hi) in percent, for `"percentile"`.
        sam_size: side of SAM's square input in pixels, for a teacher; None for a student.
        sam_mean: mean of that input's channels on a scale of 0 to 255. Default: SAM's and SAM 2's.
        sam_std: their standard deviation, likewise.
        do_pad: whether to pad frames of different sizes to a common size, by repeating the bottom and right edge. Off
            by default, because predictions near the padding then depend on the batch.
        num_channels: number of times that the frame is repeated as channels, for models that expect colour images.
        size_divisor: pad each frame's height and width to a multiple of this, by repeating the bottom and right edge,
            for models that need it.

    Raises `ValueError` for settings out of their range, and `TypeError` for unknown ones.

    Examples:
        >>> processor = InfraredImageProcessor()
        >>> inputs = processor("frame.png", return_tensors="pt")
        >>> inputs["pixel_values"].shape, inputs["original_sizes"].tolist()
        (torch.Size([1, 1, 64, 96]), [[64, 96]])
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 - a class attribute by transformers' convention
    valid_kwargs = InfraredImageKwargs
    sam_mean: tuple[float, ...] = SAM_MEAN
    sam_std: tuple[float, ...] = SAM_STD

    def __init__(
        self,
        normalization: str = "zscore",
        percentiles: Sequence[float] = (1.0, 99.0),
        sam_size: int | None = None,
        do_pad: bool = False,
        num_channels: int = 1,
        size_divisor: int | None = None,
        sam_mean: Sequence[float] | None = None,
        sam_std: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = [key for key in kwargs if not key.startswith("_") and key not in KEYS_OF_FILES]
        if unknown:
            raise TypeError(f"{type(self).__name__} has no setting {', '.join(map(repr, unknown))}.")
        super().__init__(**kwargs)
        if (sam_mean is None) != (sam_std is None):
            raise ValueError("`sam_mean` and `sam_std` belong together: give both, or neither for SAM's own.")
        _check_settings(
            normalization=normalization,
            percentiles=percentiles,
            sam_size=sam_size,
            num_channels=num_channels,
            size_divisor=size_divisor,
        )
        if sam_mean is not None and sam_std is not None:  # only then they are saved to the file
            _check_channels(sam_mean, sam_std)
            self.sam_mean, self.sam_std = tuple(sam_mean), tuple(sam_std)
        self.normalization = normalization
        self.percentiles = tuple(percentiles)
        self.sam_size = sam_size
        self.do_pad = do_pad
        self.num_channels = num_channels
        self.size_divisor = size_divisor

    def preprocess(
        self,
        images: ImageLike | Sequence[ImageLike],
        segmentation_maps: Any = None,
        normalization: str | None = None,
        percentiles: Sequence[float] | None = None,
        sam_size: int | None = None,
        do_pad: bool | None = None,
        num_channels: int | None = None,
        size_divisor: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Normalise one or several frames. Settings that are None are the processor's own.

        Args:
            images: a frame that [`read_frame`] accepts, a list of them, or an array (B, 1, H, W) or (B, H, W, 1).
            segmentation_maps: labels for training: for each frame an image or array of its size, 0 background, 1
                target, 255 ignored; see [`read_segmentation_maps`].
            normalization: see the class.
            percentiles: see the class.
            sam_size: see the class.
            do_pad: see the class.
            num_channels: see the class.
            size_divisor: the processor's own alone, as post-processing needs it too.
            return_tensors: `"pt"`, `"np"`, or None for lists with one NumPy array for each frame.

        Returns a `BatchFeature` with

        - `pixel_values` (B, `num_channels`, H, W), float32: the normalised frames, or with `sam_size` S SAM's input
          (B, 3, S, S), see [`to_sam_input`];
        - `original_sizes` (B, 2): height and width before padding;
        - `labels` (B, H, W), int64, with `segmentation_maps`: 255 in the padding;
        - `frames` (B, 1, H, W), with `sam_size`: the normalised frames;
        - `frame_boxes` (B, 4), with `sam_size`: the region (x0, y0, x1, y1) of SAM's input that `frames` covers, in
          pixels, padding included;
        - `reshaped_input_sizes` (B, 2), with `sam_size`: height and width of the resized frames in SAM's input.

        Raises:
            OSError: if a file can't be read; see [`read_frame`].
            ValueError: if an image isn't a frame, if a segmentation map is wrong, if a setting is out of its range, or
                if frames of different sizes can't be stacked.
        """
        normalization = self.normalization if normalization is None else normalization
        percentiles = self.percentiles if percentiles is None else percentiles
        sam_size = self.sam_size if sam_size is None else sam_size
        do_pad = self.do_pad if do_pad is None else do_pad
        num_channels = self.num_channels if num_channels is None else num_channels
        if size_divisor not in (None, self.size_divisor):
            raise ValueError(
                f"`size_divisor` {size_divisor} isn't the processor's, {self.size_divisor}, by which post-processing "
                "takes the padding off: set it with `InfraredImageProcessor(size_divisor=...)` or `from_pretrained`."
            )
        _check_settings(
            normalization=normalization,
            percentiles=percentiles,
            sam_size=sam_size,
            num_channels=num_channels,
            size_divisor=self.size_divisor,
        )

        raw = [torch.from_numpy(frame.astype(np.float64)) for frame in _read_frames(images)]
        sizes = [tuple(frame.shape) for frame in raw]
        if return_tensors is not None and not do_pad and len(set(sizes)) > 1:
            raise ValueError(
                f"Frames of different sizes can't be stacked: {sorted(set(sizes))} (height, width). Process them one "
                "at a time, pass `do_pad=True`, or leave `return_tensors` out for a list."
            )
        frames = [normalize_frame(frame, normalization, percentiles).float()[None] for frame in raw]  # (1, H, W) each
        common = common_size(sizes)
        frames = [_pad(frame, round_up(common if do_pad else frame.shape[1:], self.size_divisor)) for frame in frames]
        data: dict[str, list[np.ndarray]] = {
            "pixel_values": [frame.repeat(num_channels, 1, 1).numpy() for frame in frames],
            "original_sizes": [np.array(size) for size in sizes],
        }
        if segmentation_maps is not None:
            maps = read_segmentation_maps(segmentation_maps, sizes)
            data["labels"] = [_pad_map(one, frame.shape[1:]) for one, frame in zip(maps, frames, strict=True)]
        if sam_size is not None:
            inputs, boxes = zip(
                *(to_sam_input(frame, sam_size, mean=self.sam_mean, std=self.sam_std) for frame in raw), strict=True
            )
            data["frames"] = [frame.numpy() for frame in frames]
            data["pixel_values"] = [pixel_values.numpy() for pixel_values in inputs]
            data["reshaped_input_sizes"] = [box[[3, 2]].long().numpy() for box in boxes]
            data["frame_boxes"] = [
                (box * _padding_ratio(frame, size)).numpy()
                for box, frame, size in zip(boxes, frames, sizes, strict=True)
            ]
        return BatchFeature(data, tensor_type=return_tensors)

    def post_process_probabilities(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Compute the foreground probabilities of each frame.

        Args:
            outputs: model outputs with `logits`, (B, 1, h, w) of the foreground, or (B, 2, h, w) of background and
                foreground.
            target_sizes: (height, width) of each frame, such as `original_sizes`. Logits are resized bilinearly to the
                size that frames were padded to, which is the largest height and width rounded up to a multiple of
                `size_divisor`; then each map is cropped to its frame. None keeps the logits' size.

        Returns:
            A list of maps (height, width), one for each frame.

        Raises:
            ValueError: if the logits have another shape, or the number of target sizes isn't that of the frames.
        """
        logits = as_foreground(outputs.logits)
        if target_sizes is None:
            sizes = [tuple(logits.shape[2:])] * len(logits)
            common = sizes[0]
        else:
            sizes, common = self._sizes(target_sizes, len(logits))
        if common != tuple(logits.shape[2:]):
            logits = F.interpolate(logits.float(), common, mode="bilinear", align_corners=False)
        probs = logits.sigmoid()[:, 0]  # (B, H, W)
        return [prob[:height, :width] for prob, (height, width) in zip(probs, sizes, strict=True)]

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """
        Compute segmentation maps, as transformers' image processors do.

        Args:
            outputs: model outputs, see [`~InfraredImageProcessor.post_process_probabilities`].
            target_sizes: (height, width) of each frame, such as `original_sizes`. None keeps the logits' size.

        Returns a list of maps `(height, width)`, int64: 1 where the target's probability is above 0.5, else 0. For
        another threshold, use [`~InfraredImageProcessor.post_process_probabilities`].
        """
        return class_maps(self.post_process_probabilities(outputs, target_sizes))

    def post_process_object_detection(
        self,
        outputs: Any,
        threshold: float = 0.5,
        target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None,
    ) -> list[dict[str, torch.Tensor]]:
        """Compute the boxes of each frame, as transformers' image processors do.

        Targets consist of whole pixels. So with `target_sizes` boxes are rounded to edges of pixels: coordinates are
        whole numbers from 0 to the frame's sides, and boxes are at least one pixel wide and high. Boxes whose centre
        lies in the padding are left out.

        Args:
            outputs: model outputs with `pred_boxes` (B, Q, 4), (centre x, centre y, width, height) as fractions of the
                model's input, and `logits`, (B, Q, 1) for a sigmoid, or (B, Q, C + 1) for a softmax whose last class is
                "no object".
            threshold: boxes with higher scores are kept.
            target_sizes: (height, width) of each frame, such as `original_sizes`. None keeps boxes as fractions of the
                model's input.

        Returns:
            For each frame a dict with `scores` (N,), `labels` (N,) and `boxes` (N, 4), (x0, y0, x1, y1), by decreasing
            score.

        Raises:
            ValueError: if the number of target sizes isn't that of the frames.
        """
        logits, boxes = outputs.logits.float(), outputs.pred_boxes.float()
        probs = logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)[..., :-1]
        scores, labels = probs.max(-1)  # (B, Q) each
        centre, sides = boxes.split(2, dim=-1)
        corners = torch.cat([centre - sides / 2, centre + sides / 2], -1)
        kept = scores > threshold
        if target_sizes is not None:
            sizes, common = self._sizes(target_sizes, len(logits))
            shares = [(width / common[1], height / common[0]) for height, width in sizes]
            kept &= (centre <= centre.new_tensor(shares)[:, None]).all(-1)
            corners = corners * corners.new_tensor([common[1], common[0]] * 2)
            corners = torch.stack([_round_boxes(c, *size) for c, size in zip(corners, sizes, strict=True)])
        results = []
        for score, label, box, keep in zip(scores, labels, corners, kept, strict=True):
            order = score.argsort(descending=True, stable=True)
            order = order[keep[order]]
            results.append({"scores": score[order], "labels": label[order], "boxes": box[order]})
        return results

    def _sizes(
        self, target_sizes: Sequence[tuple[int, int]] | torch.Tensor, count: int
    ) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
        """Size of each frame, and the common size they were padded to. Raises `ValueError` unless there are `count`."""
        sizes: list[tuple[int, ...]] = [(int(height), int(width)) for height, width in target_sizes]
        if len(sizes) != count:
            raise ValueError(f"{len(sizes)} target sizes do not pair with the {count} frames of the logits.")
        return sizes, round_up(common_size(sizes), self.size_divisor)


def _check_settings(
    normalization: str,
    percentiles: Sequence[float],
    sam_size: int | None,
    num_channels: int,
    size_divisor: int | None,
) -> None:
    """Raise `ValueError` if a setting of the image processor is out of its range."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"`normalization` must be one of {NORMALIZATIONS}, got {normalization!r}.")
    is_pair = isinstance(percentiles, list | tuple) and len(percentiles) == 2 and all(map(_is_number, percentiles))
    if not is_pair or not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"`percentiles` must be (lo, hi) with 0 <= lo < hi <= 100, got {percentiles!r}.")
    if sam_size is not None and (type(sam_size) is not int or sam_size < 1):
        raise ValueError(f"`sam_size` must be a positive number of pixels or None, got {sam_size}.")
    if type(num_channels) is not int or not 1 <= num_channels <= 1024:
        raise ValueError(f"`num_channels` must be a whole number from 1 to 1024, got {num_channels!r}.")
    if size_divisor is not None and (type(size_divisor) is not int or not 1 <= size_divisor <= 4096):
        raise ValueError(f"`size_divisor` must be a whole number from 1 to 4096 or None, got {size_divisor!r}.")


def _check_channels(sam_mean: Sequence[float], sam_std: Sequence[float]) -> None:
    """Raise `ValueError` unless mean and standard deviation are three numbers each, the deviations above 0."""
    for name, values in (("sam_mean", sam_mean), ("sam_std", sam_std)):
        if len(values) != 3 or not all(map(_is_number, values)):
            raise ValueError(f"`{name}` must be three numbers, got {values!r}.")
    if min(sam_std) <= 0:
        raise ValueError(f"`sam_std` must be above 0, got {sam_std!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _read_frames(images: ImageLike | Sequence[ImageLike]) -> list[np.ndarray]:
    """Read one or several frames. Raises `ValueError` with the image's number, and warns of white RGB images."""
    is_batch = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
    items: list[Any] = list(images) if is_batch else [images]  # type: ignore[arg-type]
    if not items:
        raise ValueError("There is no image to process.")
    frames = []
    for index, image in enumerate(items):
        try:
            frames.append(read_frame(image))
        except ValueError as error:
            raise ValueError(f"Image {index}: {error}") from error
        if isinstance(image, Image.Image) and image.mode == "RGB" and (frames[-1] == 255).all():
            warnings.warn(
                f"Image {index} is all white: 16-bit frames that are turned into RGB, as transformers' stock pipelines "
                "do, are cut at 255. Give frames to `pipeline('infrared-small-target-detection')` or to the image "
                "processor as they are, or rescale them to 8 bits first.",
                stacklevel=3,
            )
    return frames


def common_size(sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The largest height and width."""
    return tuple(max(sides) for sides in zip(*sizes, strict=True))


def round_up(size: Sequence[int], divisor: int | None) -> tuple[int, ...]:
    """The size, rounded up to multiples of `divisor`."""
    return tuple(-(-side // divisor) * divisor if divisor else side for side in size)


def _pad(frame: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Pad a frame (1, H, W) at the bottom and right to (height, width), by repeating its edge."""
    return F.pad(frame, (0, size[1] - frame.shape[2], 0, size[0] - frame.shape[1]), mode="replicate")


def _pad_map(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Pad a segmentation map (H, W) at the bottom and right to (height, width), with ignored pixels."""
    sides = [(0, new - old) for new, old in zip(size, labels.shape, strict=True)]
    return np.pad(labels, sides, constant_values=IGNORE_INDEX)


def _round_boxes(corners: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Round boxes (N, 4), (x0, y0, x1, y1), to edges of a frame's pixels, at least one pixel wide and high."""
    sides = corners.new_tensor([width, height])
    low, high = corners.round().split(2, dim=-1)
    empty = high <= low  # both edges are rounded to the same: use the pixel of the centre
    low = torch.where(empty, (corners[:, :2] / 2 + corners[:, 2:] / 2).floor(), low)
    low = torch.minimum(low.clamp(min=0), sides - 1)
    high = torch.minimum(torch.maximum(high, low + 1), sides)
    return torch.cat([low, high], -1)


def _padding_ratio(frame: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Padded size / original size of a frame (1, H, W) of original (height, width), as (x, y, x, y)."""
    height, width = size
    return torch.tensor([frame.shape[2] / width, frame.shape[1] / height] * 2)


__all__ = ["InfraredImageProcessor", "normalize_frame", "read_frame", "to_sam_input"]
