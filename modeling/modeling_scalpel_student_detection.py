"""The detection student: a centre heat-map with the boxes' sizes and offsets, for boxes of 1 to 30 pixels.

- Heat-map and boxes are at stride 1. Targets are the 8-connected components of a mask, so that two of one pixel each
  may have one pixel between them: at stride 2 they lie in neighbouring cells, of which only one can be a peak, and at
  stride 4 in the same cell. The network's last features are those of 2 x 2 cells, of the larger sizes of pixels; one
  convolution gives all pixels of a cell their five numbers.
- No anchors and no queries that learn where to look: both are made for boxes many times larger.
- Every pixel near a centre learns the whole box, not only the peak, so that a peak one pixel off still has the right
  one, and errors count in units of the box's own sides, to which overlap is sensitive.

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

MIN_SIGMA = 0.5  # in pixels: a one-pixel target's neighbours count as e^-2 of a target
NEAR = 0.1  # height of the Gaussian down to which a pixel learns the box


@dataclass
class ScalpelStudentObjectDetectionOutput(ModelOutput):
    """
    Args:
        loss: scalar, given labels: the sum of `loss_dict`.
        loss_dict: `loss_heatmap`, `loss_offset` and `loss_size`.
        logits: (B, Q, 1), the sigmoid of which is a box's score, 0 for what is no box: where there are fewer peaks
            than Q, and where the centre lies in a better box, as of the second peak in a large target.
        pred_boxes: (B, Q, 4), (centre x, centre y, width, height), as shares of the frame's width and height.
    """

    loss: torch.Tensor | None = None
    loss_dict: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    pred_boxes: torch.Tensor | None = None


class DetectionHead(nn.Sequential):
    """Heat-map logit, offset (x, y) in pixels and logarithm of the size (width, height) in pixels: (B, 5, SH, SW) of
    features (B, C, H, W) of cells of S x S pixels."""

    def __init__(self, channels: int, cell: int) -> None:
        super().__init__(ConvLayer(channels, channels), Classifier(channels, cell, num_maps=5))


class ScalpelStudentForObjectDetection(ScalpelStudentBackbone):
    """Boxes of small targets in frames of any size.

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
        """Boxes at the highest peaks of the heat-map, and with `labels` the loss.

        The heat-map's loss is the focal loss of "Objects as Points" (α = 2, β = 4) against Gaussians at the boxes'
        centres whose standard deviations are a quarter of the boxes' sides and at least half a pixel; offsets and sizes
        have |Δcentre| / side and |Δlog side|, averaged over each Gaussian. All three are sums over the targets,
        divided by their number.

        Args:
            pixel_values: normalised frames (B, 1, H, W), any H and W.
            labels: for each frame `class_labels` (N,), all 0, and `boxes` (N, 4) as in `pred_boxes`.
            pixel_weights: (B, H, W), ≥ 0, the weight of each pixel in the loss; 0 ignores it.
            original_sizes: of the image processor, taken so that `model(**inputs)` works; post-processing uses it.

        Raises:
            ValueError: on another shape of frames, labels or weights, a class other than 0, boxes outside the frame.
        """
        maps = self.head(self.features(pixel_values))[:, :, : pixel_values.shape[2], : pixel_values.shape[3]]
        logits, boxes = self._peaks(maps)
        losses = None if labels is None else self._losses(maps, labels, pixel_weights)
        loss = None if losses is None else torch.stack(list(losses.values())).sum()
        return ScalpelStudentObjectDetectionOutput(loss=loss, loss_dict=losses, logits=logits, pred_boxes=boxes)

    def _peaks(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = maps.shape[2:]
        heat = maps[:, :1]
        peaks = heat.masked_fill(heat < F.max_pool2d(heat, 3, stride=1, padding=1), torch.finfo(heat.dtype).min)
        logits, index = peaks.flatten(1).topk(torch.sym_min(self.config.num_queries, height * width))  # (B, Q)
        columns = torch.arange(width, device=maps.device, dtype=maps.dtype).expand(height, width)
        rows = torch.arange(height, device=maps.device, dtype=maps.dtype)[:, None].expand(height, width)
        centres = torch.stack([columns, rows])[None].expand(maps.shape[0], -1, -1, -1) + 0.5
        values = torch.cat([maps[:, 1:], centres], 1).flatten(2)  # read at the index: ONNX has no remainder of it
        offset, log_size, pixel = values.gather(2, index[:, None].expand(-1, 6, -1)).split(2, dim=1)
        # Not `new_tensor`, which an exported graph would take for the constants that they were once.
        sides = (torch.scalar_tensor(n, dtype=maps.dtype, device=maps.device) for n in (width, height))
        frame = torch.stack(list(sides))[:, None]
        boxes = torch.cat([(pixel + offset) / frame, log_size.exp() / frame], 1).clamp(0, 1).mT
        repeated = _centre_inside(boxes).triu(1).any(1)  # (B, Q), in one of the boxes before
        return logits.masked_fill(repeated, torch.finfo(logits.dtype).min)[..., None], boxes

    def _losses(
        self, maps: torch.Tensor, labels: list[dict[str, torch.Tensor]], pixel_weights: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
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
    """What the maps of one frame should be.

    Args:
        boxes: (N, 4), (centre x, centre y, width, height) in pixels.

    Returns:
        `heat` (H, W), the highest of the boxes' Gaussians; `peaks` (H, W), boolean, the pixels that the centres lie in,
        where it is 1; `boxes` (4, H, W), offset (x, y) of the centre and the sides (width, height) of the box whose
        Gaussian is the highest; and `share` (H, W), each pixel's share in learning that box, 1 in sum for each.
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
    """Heat-map, offset and size loss of one frame, summed over its targets, of maps (5, H, W)."""
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
    """(B, Q, Q), whether box i (B, Q, 4) holds the centre of box j."""
    centre, sides = boxes.split(2, dim=-1)
    return ((centre[:, None] - centre[:, :, None]).abs() < sides[:, :, None] / 2).all(-1)


def _check_boxes(label: dict[str, Any]) -> torch.Tensor:
    boxes, classes = label["boxes"].float(), label["class_labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or classes.shape != boxes.shape[:1]:
        raise ValueError(
            f"Labels have `boxes` (N, 4) and `class_labels` (N,), got {tuple(boxes.shape)} and {tuple(classes.shape)}."
        )
    if (classes != 0).any():
        raise ValueError(f"The only class is 0, a target; got {classes.unique().tolist()}.")
    if not (((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, 2:] > 0).all()):
        raise ValueError("`boxes` are (centre x, centre y, width, height) as shares of the frame, above 0 and up to 1.")
    return boxes


__all__ = ["ScalpelStudentForObjectDetection", "ScalpelStudentObjectDetectionOutput"]
