"""Processor of the stand-alone teacher: frames and prompts to inputs, outputs to masks and boxes in frame pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from .configuration_experts import MASK_GRIDS
from .custom_code import CustomCodeMixin
from .image_processing_infrared import InfraredImageProcessor, common_size, round_up
from .normalization import ImageLike
from .segmentation_maps import class_maps

PADDING_LABEL = -10  # label of padding points in SAM's prompt encoder
MASK_LOGIT = 10.0  # logit of a mask prompt's pixel with probability 1
Sizes = Sequence[tuple[int, int]] | Tensor


class ScalpelSamProcessor(CustomCodeMixin, ProcessorMixin):
    """
    Combines an [`InfraredImageProcessor`] with the conversion of prompts and predictions to and from frame pixels.

    A point `[x, y]` names a pixel, and stands for its centre. A box `[x0, y0, x1, y1]` names edges of pixels: a target
    of one pixel in column 5 and row 3 has the box `[5, 3, 6, 4]`.

    Args:
        image_processor: with the model's input size as `sam_size`.
        mask_grid: the model's, see [`ScalpelSamConfig`]. Default: told by the masks' size, which can't tell frames that
            are padded to a quarter of `sam_size`.

    Raises `ValueError` if the image processor has no `sam_size`, or for another `mask_grid`.

    Examples:
        >>> processor = ScalpelSamProcessor(InfraredImageProcessor(sam_size=64))
        >>> inputs = processor("frame.png", input_boxes=[[[5, 3, 6, 4]]])
        >>> inputs["pixel_values"].shape, inputs["input_boxes"].shape
        (torch.Size([1, 3, 64, 64]), torch.Size([1, 1, 4]))
    """

    def __init__(self, image_processor: InfraredImageProcessor, mask_grid: str | None = None):
        if image_processor.sam_size is None:
            raise ValueError("The image processor has no `sam_size`: set it to the model's input size.")
        if mask_grid not in (None, *MASK_GRIDS):
            raise ValueError(f"`mask_grid` must be 'frame', 'base' or None, got {mask_grid!r}.")
        super().__init__(image_processor)
        self.mask_grid = mask_grid

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values", "frames", "frame_boxes", "original_sizes", "reshaped_input_sizes"]

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        input_points: Any = None,
        input_labels: Any = None,
        input_boxes: Any = None,
        input_masks: Any = None,
        return_tensors: str = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """
        Prepare frames and prompts for the model.

        Args:
            images: one frame or a list of frames: paths, PIL images, arrays or tensors; see [`InfraredImageProcessor`].
            input_points: points `[x, y]`, nested as frames, objects, points; or as frames, points, with one object in
                each frame. Objects may have different numbers of points; frames must have equal numbers of objects.
            input_labels: labels of the points, nested likewise: 1 on the object, 0 off it. Default: all 1.
            input_boxes: boxes `[x0, y0, x1, y1]`, nested as frames, objects.
            input_masks: for each frame a mask (H, W): probabilities, bool, or 0 and 255.
            return_tensors: `"pt"` or `"np"`.
            kwargs: settings of the image processor for this call.

        Returns the image processor's `pixel_values` (B, 3, S, S), `frames` (B, 1, H, W), `frame_boxes` (B, 4),
        `original_sizes` (B, 2) and `reshaped_input_sizes` (B, 2), and for prompts that were given `input_points`
        (B, P, N, 2), `input_labels` (B, P, N), `input_boxes` (B, P, 4) and `input_masks` (B, 1, S/4, S/4). Points and
        boxes are in pixels of SAM's input.

        Raises:
            OSError: if a file can't be read.
            ValueError: if an image isn't a frame, or if prompts don't match the frames or each other.
        """
        features = self.image_processor(images, return_tensors="pt", **kwargs)
        scales = features["reshaped_input_sizes"] / features["original_sizes"]  # (B, 2), y and x
        scales = scales.flip(1)
        for name, prompts in (("points", input_points), ("boxes", input_boxes), ("masks", input_masks)):
            if prompts is not None and len(prompts) != len(scales):
                raise ValueError(f"`input_{name}` are for {len(prompts)} frames, there are {len(scales)}.")
        if input_points is not None:
            points, labels = _points(input_points, input_labels, scales)
            features.update({"input_points": points, "input_labels": labels})
        if input_boxes is not None:
            boxes = [torch.as_tensor(np.asarray(b), dtype=torch.float32).reshape(-1, 4) for b in input_boxes]
            # Boxes are edges, and SAM's prompt encoder adds half a pixel.
            features["input_boxes"] = _stack("boxes", boxes) * scales.repeat(1, 2)[:, None] - 0.5
        if input_masks is not None:
            size = kwargs.get("sam_size") or self.image_processor.sam_size
            logits = [
                _mask_logits(mask, original_size=original, reshaped_size=reshaped, input_size=size)
                for mask, original, reshaped in zip(
                    input_masks, features["original_sizes"], features["reshaped_input_sizes"], strict=True
                )
            ]
            features["input_masks"] = torch.stack(logits).float()
        return BatchFeature(features.data).convert_to_tensors(return_tensors)

    def post_process_masks(
        self,
        masks: Tensor,
        original_sizes: Sizes,
        reshaped_input_sizes: Sizes | None = None,
        mask_threshold: float = 0.0,
        binarize: bool = True,
    ) -> list[Tensor]:
        """
        Convert predicted masks to each frame's size.

        Args:
            masks: the model's `pred_masks` `(B, P, M, h, w)`, at the frames' resolution or at the base's.
            original_sizes: `(height, width)` of each frame; of another size than the masks', they are resized to it.
            reshaped_input_sizes: not used; SAM's processor takes it in this place.
            mask_threshold: logits above it are mask.
            binarize: whether to return bool masks; otherwise logits.

        Returns a list with `(P, M, H, W)` for each frame. Raises `ValueError` if the number of sizes isn't that of the
        frames.
        """
        sizes = [(int(height), int(width)) for height, width in original_sizes]
        if len(sizes) != len(masks):
            raise ValueError(f"{len(sizes)} sizes do not pair with the masks of {len(masks)} frames.")
        if self._is_base_grid(tuple(masks.shape[-2:]), sizes):
            logits = [self._from_base_grid(mask, size) for mask, size in zip(masks, sizes, strict=True)]
        else:
            padded = round_up(common_size(sizes), self.image_processor.size_divisor)
            if masks.shape[-2:] != padded:
                whole = F.interpolate(masks.flatten(1, 2).float(), padded, mode="bilinear", align_corners=False)
                masks = whole.unflatten(1, masks.shape[1:3])
            logits = [mask[..., :height, :width] for mask, (height, width) in zip(masks, sizes, strict=True)]
        return [logit > mask_threshold for logit in logits] if binarize else logits

    def _is_base_grid(self, grid: tuple[int, ...], sizes: Sequence[tuple[int, int]]) -> bool:
        """Whether masks of the size `grid` cover SAM's whole input, not the frames."""
        if self.mask_grid is not None:
            return self.mask_grid == "base"
        side = self.image_processor.sam_size // 4
        return grid == (side, side) and grid != round_up(common_size(sizes), self.image_processor.size_divisor)

    def _from_base_grid(self, mask: Tensor, size: tuple[int, int]) -> Tensor:
        """Crop masks `(P, M, h, w)` of SAM's whole input to the region of a frame, resized to the frame's size."""
        side = 4 * mask.shape[-1]
        scale = side / max(size)
        covered = [max(1, int(length * scale + 0.5)) for length in size]
        whole = F.interpolate(mask.float(), (side, side), mode="bilinear", align_corners=False)
        return F.interpolate(whole[..., : covered[0], : covered[1]], size, mode="bilinear", align_corners=False)

    def post_process_probabilities(self, outputs: Any, target_sizes: Sizes | None = None) -> list[Tensor]:
        """
        Compute each pixel's target probability. With prompts it's the maximum over the objects, using the mask of each
        object with the highest predicted IoU.

        Args:
            outputs: model outputs with `pred_masks` and `iou_scores`.
            target_sizes: `(height, width)` of each frame, such as `original_sizes`. None keeps the masks' size.

        Returns a list with a map `(H, W)` for each frame.
        """
        best = outputs.iou_scores.argmax(-1)[:, :, None, None, None]  # (B, P, 1, 1, 1)
        masks = outputs.pred_masks.take_along_dim(best, 2)  # (B, P, 1, h, w)
        logits = masks if target_sizes is None else self.post_process_masks(masks, target_sizes, binarize=False)
        return [of_frame.float().sigmoid().amax((0, 1)) for of_frame in logits]

    def post_process_semantic_segmentation(self, outputs: Any, target_sizes: Sizes | None = None) -> list[Tensor]:
        """
        Compute segmentation maps, as transformers' image processors do.

        Args:
            outputs: model outputs, see [`~ScalpelSamProcessor.post_process_probabilities`].
            target_sizes: `(height, width)` of each frame, such as `original_sizes`. None keeps the masks' size.

        Returns a list of maps `(height, width)`, int64: 1 where the target's probability is above 0.5, else 0. For
        another threshold, use [`~ScalpelSamProcessor.post_process_probabilities`].
        """
        return class_maps(self.post_process_probabilities(outputs, target_sizes))

    def post_process_object_detection(
        self, outputs: Any, threshold: float = 0.5, target_sizes: Sizes | None = None
    ) -> list[dict[str, Tensor]]:
        """
        Compute the boxes of each frame's targets, as transformers' image processors do.

        A target is an 8-connected component of the pixels whose probability is above `threshold`. Its score is the mean
        probability inside it, its label is 0. Arguments are those of
        [`~ScalpelSamProcessor.post_process_probabilities`].

        Returns for each frame a dict with `scores` (N,), `labels` (N,) and `boxes` (N, 4), (x0, y0, x1, y1), by
        decreasing score.
        """
        return [_targets(prob, threshold) for prob in self.post_process_probabilities(outputs, target_sizes)]


def _points(points: Any, labels: Any, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Convert points and labels to SAM's `input_points` (B, P, N, 2) and `input_labels` (B, P, N), with padding."""
    located = [_objects(of_frame, ndim=2) for of_frame in points]
    if any(not of_frame or any(p.ndim != 2 or p.shape[1] != 2 for p in of_frame) for of_frame in located):
        raise ValueError("`input_points` must be points [x, y], nested as frames, objects, points.")
    if labels is not None and len(labels) != len(located):
        raise ValueError(f"`input_labels` are for {len(labels)} frames, `input_points` for {len(located)}.")
    if labels is None:
        given = [[torch.ones(len(p)) for p in of_frame] for of_frame in located]
    else:
        given = [_objects(of_frame, ndim=1) for of_frame in labels]
    if [[tuple(label.shape) for label in of_frame] for of_frame in given] != [
        [(len(p),) for p in of_frame] for of_frame in located
    ]:
        raise ValueError("`input_labels` need a label for each of the `input_points`.")
    most = max(len(p) for of_frame in located for p in of_frame)
    # Points are centres of pixels, and SAM's prompt encoder adds half a pixel of its input.
    padded = [
        torch.stack([_padded((p + 0.5) * scale - 0.5, most) for p in of_frame])
        for of_frame, scale in zip(located, scales, strict=True)
    ]
    return _stack("points", padded), torch.stack([torch.stack([_padded(p.int(), most) for p in one]) for one in given])


def _objects(values: Any, ndim: int) -> list[Tensor]:
    """A tensor of `ndim` dimensions for each object of a frame; a frame may have one, without a list around it."""
    objects = [values] if len(values) and np.ndim(values[0]) < ndim else values
    return [torch.as_tensor(np.asarray(one), dtype=torch.float32) for one in objects]


def _padded(values: Tensor, count: int) -> Tensor:
    """Points or labels of an object, followed by padding points up to `count`."""
    return F.pad(values, (0, 0) * (values.ndim - 1) + (0, count - len(values)), value=PADDING_LABEL)


def _stack(name: str, prompts: list[Tensor]) -> Tensor:
    """Stack the frames' prompts. Raises `ValueError` if their numbers of objects differ."""
    if len({len(p) for p in prompts}) > 1:
        raise ValueError(
            f"`input_{name}` have {sorted({len(p) for p in prompts})} objects a frame: process frames with different "
            "numbers one at a time."
        )
    return torch.stack(prompts)


def _mask_logits(mask: Any, original_size: Tensor, reshaped_size: Tensor, input_size: int) -> Tensor:
    """Convert a mask prompt (H, W) to logits (1, S/4, S/4) of SAM's whole input; the padding is background."""
    values = torch.as_tensor(np.asarray(mask)).float()
    if tuple(values.shape) != tuple(original_size.tolist()):
        raise ValueError(
            f"A mask prompt must have its frame's size {tuple(original_size.tolist())}, got {tuple(values.shape)}."
        )
    values = values / 255 if values.max() > 1 else values
    height, width = (int(side) for side in reshaped_size)
    values = F.interpolate(values[None, None], (height, width), mode="bilinear", antialias=True)
    values = F.avg_pool2d(F.pad(values, (0, input_size - width, 0, input_size - height)), 4)[0]
    return MASK_LOGIT * (2 * values - 1)


def _targets(prob: Tensor, threshold: float) -> dict[str, Tensor]:
    """Scores, labels and boxes of the components above `threshold` of a map (H, W)."""
    labels, count = label_components(prob > threshold)
    rows, columns = labels.nonzero(as_tuple=True)
    index = labels[rows, columns] - 1
    sums = prob.new_zeros(count, dtype=torch.float64).index_add(0, index, prob[rows, columns].double())
    scores = (sums / index.bincount(minlength=count)).to(prob.dtype)
    places = torch.stack([columns, rows], 1)
    low, high = (
        places.new_zeros(count, 2).scatter_reduce(0, index[:, None].expand(-1, 2), places, kind, include_self=False)
        for kind in ("amin", "amax")
    )
    boxes = torch.cat([low, high + 1], 1).to(prob.dtype)
    order = scores.argsort(descending=True, stable=True)
    return {"scores": scores[order], "labels": torch.zeros_like(order), "boxes": boxes[order]}


def label_components(mask: Tensor) -> tuple[Tensor, int]:
    """
    Label the 8-connected components of a mask, by the runs of pixels in its rows.

    Args:
        mask: `(H, W)`, bool.

    Returns int64 labels `(H, W)`, 0 outside and 1 to n in the components, in the order of their first pixels; and n.

    Examples:
        >>> label_components(torch.tensor([[True, False, True], [False, False, True]]))
        (tensor([[1, 0, 2],
                [0, 0, 2]]), 2)
    """
    edges = F.pad(mask.to(torch.int8), (1, 1)).diff(dim=1)
    rows, starts = (edges == 1).nonzero(as_tuple=True)
    stops = (edges == -1).nonzero(as_tuple=True)[1]
    numbers = _label_runs(rows, starts, stops, stride=mask.shape[1] + 2)
    run = (edges[:, :-1] == 1).flatten().cumsum(0).view(mask.shape) - 1  # of each pixel of the mask
    labels = torch.zeros_like(run)
    labels[mask] = numbers[run[mask]] + 1
    return labels, int(labels.max())


def _label_runs(rows: Tensor, starts: Tensor, stops: Tensor, stride: int) -> Tensor:
    """
    The number of each run's component, from 0 in the order of the components' first runs.

    Two runs touch if they are in neighbouring rows and overlap, or meet at a corner. Each run takes the smallest number
    of the runs that it touches, and then the number that the run of this number has, until nothing changes.

    Args:
        rows, starts, stops: of each run, in order: its row, its first column, and the column after its last.
        stride: more than the width.
    """
    keys = rows * stride
    # The runs in the next row that a run touches are neighbours in the list: from `first` up to `last`.
    first = torch.searchsorted(keys + stops, keys + stride + starts)
    last = torch.searchsorted(keys + starts, keys + stride + stops, right=True)
    touching = (last - first).clamp(min=0)
    numbers = torch.arange(len(rows), device=rows.device)
    above = numbers.repeat_interleave(touching)
    before = touching.cumsum(0) - touching
    below = torch.arange(len(above), device=rows.device) + (first - before).repeat_interleave(touching)
    while True:
        one, other = numbers[above], numbers[below]
        if torch.equal(one, other):
            return numbers.unique(return_inverse=True)[1]
        lowest = torch.minimum(one, other)
        numbers = numbers.scatter_reduce(0, torch.cat([one, other]), torch.cat([lowest, lowest]), "amin")
        numbers = numbers[numbers]


__all__ = ["ScalpelSamProcessor"]
