"""The detection student: a heat map of the boxes' centres with sizes and offsets, for boxes of 1 to 30 pixels.

- Heat map and boxes have stride 1. Targets are 8-connected components of a mask, so that two targets of one pixel may
  be only two pixels apart. At stride 2 they would be in neighbouring cells, of which only one can be a peak, and at
  stride 4 in the same cell. The head's last convolution predicts five numbers for each pixel of a cell.
- There are no anchors and no learned queries, which are made for much larger boxes.
- Every pixel near a centre learns the whole box, so that a peak that is wrong by a pixel still predicts it. Errors are
  relative to the box's sides, because so is the overlap.

After Zhou et al., "Objects as Points" (2019); boxes learned around the peak as in Liu et al., "Training-Time-Friendly
Network for Real-Time Object Detection" (AAAI 2020).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_scalpel_student import ScalpelStudentDetectionConfig
from .modeling_scalpel_student import Classifier, ScalpelStudentBackbone
from .unet import ConvLayer

MIN_SIGMA = 0.5  # pixels; the neighbours of a one-pixel target have the height e^-2
NEAR = 0.1  # pixels where the Gaussian is higher learn the box


@dataclass
class ScalpelStudentObjectDetectionOutput(ModelOutput):
    """
    Args:
        loss: scalar, the sum of `loss_dict`, if labels were given.
        loss_dict: scalars `loss_heatmap`, `loss_offset` and `loss_size`, if labels were given.
        logits: (B, Q, 1), whose sigmoid is a box's score, by decreasing score of the peaks. It has the lowest value of
            its dtype, a score of 0, if there are fewer than Q peaks, and if the box's centre is inside a better box.
        pred_boxes: (B, Q, 4), (centre x, centre y, width, height), as fractions of the frame's width and height.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None


class DetectionHead(nn.Sequential):
    """Predicts five maps: features (B, C, H, W) of cells of S x S pixels → (B, 5, S·H, S·W).

    The maps are the heat map's logit, the centre's offset (x, y) in pixels, and the logarithm of the box's width and
    height in pixels.
    """

    def __init__(self, channels: int, cell: int) -> None:
        super().__init__(ConvLayer(channels, channels), Classifier(channels, cell, num_maps=5))


class ScalpelStudentForObjectDetection(ScalpelStudentBackbone):
    """Detects small targets as boxes, in frames of any size.

    Examples:
        >>> config = ScalpelStudentDetectionConfig.from_size("small")
        >>> model = ScalpelStudentForObjectDetection(config).eval()
        >>> outputs = model(torch.zeros(1, 1, 240, 321))
        >>> outputs.logits.shape, outputs.pred_boxes.shape
        (torch.Size([1, 100, 1]), torch.Size([1, 100, 4]))
    """

    config_class = ScalpelStudentDetectionConfig

    def __init__(self, config: ScalpelStudentDetectionConfig) -> None:
        super().__init__(config)
        self.head = DetectionHead(self.num_features, self.cell)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: list[dict[str, torch.Tensor]] | None = None,
        pixel_weights: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
    ) -> ScalpelStudentObjectDetectionOutput:
        """Predict boxes at the highest peaks of the heat map, and with `labels` compute the loss.

        The heat map's loss is the focal loss of "Objects as Points" (α = 2, β = 4). Its targets are Gaussians at the
        boxes' centres, with standard deviations of a quarter of the box's sides, at least half a pixel. The losses of
        offset and size are |Δcentre| / side and |Δlog side|, averaged with the Gaussian as weight. All three are summed
        over the targets, and divided by their number.

        Args:
            pixel_values: normalised frames (B, 1, H, W), any H and W.
            labels: for each frame a dict with `class_labels` (N,), all 0, and `boxes` (N, 4) as in `pred_boxes`.
            pixel_weights: (B, H, W), ≥ 0, the weight of each pixel in the loss.
            original_sizes: ignored; accepted so that the image processor's output can be passed as `model(**inputs)`.

        Raises:
            ValueError: if frames, labels or weights have another shape, a class isn't 0, or a box is outside [0, 1].
        """
        maps = self.head(self.features(pixel_values))[:, :, : pixel_values.shape[2], : pixel_values.shape[3]]
        logits, boxes = self._peaks(maps)
        losses = None if labels is None else self._losses(maps, labels, pixel_weights)
        loss = None if losses is None else torch.stack(list(losses.values())).sum()
        return ScalpelStudentObjectDetectionOutput(loss=loss, loss_dict=losses, logits=logits, pred_boxes=boxes)

    def _peaks(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, Q, 1) and boxes (B, Q, 4) at the highest local maxima of the heat map."""
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))  # bfloat16 has no odd column beyond 256
        height, width = maps.shape[2:]
        heat = maps[:, :1]
        peaks = heat.masked_fill(heat < F.max_pool2d(heat, 3, stride=1, padding=1), torch.finfo(heat.dtype).min)
        logits, index = peaks.flatten(1).topk(torch.sym_min(self.config.num_queries, height * width))  # (B, Q)
        columns = torch.arange(width, device=maps.device, dtype=maps.dtype).expand(height, width)
        rows = torch.arange(height, device=maps.device, dtype=maps.dtype)[:, None].expand(height, width)
        centres = torch.stack([columns, rows])[None].expand(maps.shape[0], -1, -1, -1) + 0.5
        # Centres are gathered as well, because an exported graph can't compute them as remainders of the index.
        values = torch.cat([maps[:, 1:], centres], 1).flatten(2)
        offset, log_size, pixel = values.gather(2, index[:, None].expand(-1, 6, -1)).split(2, dim=1)
        # Not `new_tensor`, whose values would be constants in an exported graph.
        sides = (torch.scalar_tensor(n, dtype=maps.dtype, device=maps.device) for n in (width, height))
        frame = torch.stack(list(sides))[:, None]
        boxes = torch.cat([(pixel + offset) / frame, log_size.exp() / frame], 1).clamp(0, 1).mT
        repeated = _centre_inside(boxes).triu(1).any(1)  # (B, Q), whether it is in an earlier, better box
        return logits.masked_fill(repeated, torch.finfo(logits.dtype).min)[..., None], boxes

    def _losses(
        self, maps: torch.Tensor, labels: list[dict[str, torch.Tensor]], pixel_weights: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """The losses of a batch's maps `(B, 5, H, W)` by name. Raises `ValueError` for wrong labels or weights."""
        height, width = maps.shape[2:]
        if len(labels) != len(maps):
            raise ValueError(f"{len(labels)} labels do not pair with {len(maps)} frames.")
        if pixel_weights is None:
            pixel_weights = maps.new_ones(maps.shape[0], height, width)
        if pixel_weights.shape != (maps.shape[0], height, width):
            expected = (maps.shape[0], height, width)
            raise ValueError(f"`pixel_weights` have the frames' shape {expected}, got {tuple(pixel_weights.shape)}.")
        maps = maps.float()
        sums = maps.new_zeros(3)
        count = maps.new_zeros(())
        for frame_maps, label, weight in zip(maps, labels, pixel_weights, strict=True):
            boxes = _check_boxes(label) * maps.new_tensor([width, height, width, height])
            targets = draw_targets(boxes, height, width)
            sums = sums + torch.stack(_frame_losses(frame_maps, targets, weight))
            count = count + (targets["peaks"] * weight).sum()
        heatmap, offset, size = sums / count.clamp(min=1)
        return {"loss_heatmap": heatmap, "loss_offset": offset, "loss_size": size}


def draw_targets(boxes: torch.Tensor, height: int, width: int) -> dict[str, torch.Tensor]:
    """Draw the training targets of one frame.

    Args:
        boxes: (N, 4), (centre x, centre y, width, height) in pixels.
        height: the frame's height H in pixels.
        width: the frame's width W in pixels.

    Returns:
        A dict with

        - `heat` (H, W): the maximum of the boxes' Gaussians;
        - `peaks` (H, W), bool: the pixels of the centres, where `heat` is 1;
        - `boxes` (4, H, W): the centre's offset (x, y) and the sides (width, height), in pixels, of the box with the
          highest Gaussian at each pixel;
        - `share` (H, W): the weight of each pixel in that box's loss. Each box's weights sum to 1.
    """
    y = torch.arange(height, device=boxes.device, dtype=boxes.dtype)
    x = torch.arange(width, device=boxes.device, dtype=boxes.dtype)
    if not len(boxes):
        empty = boxes.new_zeros(height, width)
        return {"heat": empty, "peaks": empty.bool(), "boxes": boxes.new_ones(4, height, width), "share": empty}
    peak_x = boxes[:, 0].floor().clamp(0, width - 1)
    peak_y = boxes[:, 1].floor().clamp(0, height - 1)
    sigma = (boxes[:, 2:] / 4).clamp(min=MIN_SIGMA)
    along_x = torch.exp(-((x - peak_x[:, None]) ** 2) / (2 * sigma[:, :1] ** 2))  # (N, W)
    along_y = torch.exp(-((y - peak_y[:, None]) ** 2) / (2 * sigma[:, 1:] ** 2))  # (N, H)
    heat, owner = (along_y[:, :, None] * along_x[:, None]).max(0)  # (H, W)
    centre, sides = boxes[owner].permute(2, 0, 1).split(2)  # (2, H, W) each
    pixel = torch.stack([x.expand(height, width), y[:, None].expand(height, width)]) + 0.5
    near = heat * (heat > NEAR)
    sums = boxes.new_zeros(len(boxes)).index_add(0, owner.flatten(), near.flatten())
    return {
        "heat": heat,
        "peaks": heat == 1,
        "boxes": torch.cat([centre - pixel, sides]),
        "share": near / sums.clamp(min=NEAR)[owner],
    }


def _frame_losses(
    maps: torch.Tensor, targets: dict[str, torch.Tensor], weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Heat map, offset and size loss of a frame's maps (5, H, W), each summed over its targets."""
    logits, prob = maps[0], maps[0].sigmoid()
    hit = (1 - prob) ** 2 * F.softplus(-logits)
    miss = (1 - targets["heat"]) ** 4 * prob**2 * F.softplus(logits)
    heatmap = (weight * torch.where(targets["peaks"], hit, miss)).sum()
    offset, sides = targets["boxes"].split(2)
    share = weight * targets["share"]
    offset_loss = (share * (maps[1:3] - offset).abs() / sides).sum() / 2
    size_loss = (share * (maps[3:5] - sides.log()).abs()).sum() / 2
    return heatmap, offset_loss, size_loss


def _centre_inside(boxes: torch.Tensor) -> torch.Tensor:
    """(B, Q, Q): whether box i of boxes (B, Q, 4) contains the centre of box j."""
    centre, sides = boxes.split(2, dim=-1)
    return ((centre[:, None] - centre[:, :, None]).abs() < sides[:, :, None] / 2).all(-1)


def _check_boxes(label: dict[str, Any]) -> torch.Tensor:
    """A frame's boxes (N, 4) as float32. Raises `ValueError` for other shapes, classes or coordinates."""
    boxes, classes = label["boxes"].float(), label["class_labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or classes.shape != boxes.shape[:1]:
        raise ValueError(
            "Labels must have `boxes` (N, 4) and `class_labels` (N,), got "
            f"{tuple(boxes.shape)} and {tuple(classes.shape)}."
        )
    if (classes != 0).any():
        raise ValueError(f"The only class is 0, a target; got {classes.unique().tolist()}.")
    if not (((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, 2:] > 0).all()):
        raise ValueError("`boxes` must be (centre x, centre y, width, height) as shares of the frame, from 0 to 1.")
    return boxes


__all__ = ["ScalpelStudentForObjectDetection", "ScalpelStudentObjectDetectionOutput"]
