"""The students' network, a small residual U-Net, and the segmentation student, with logits at native resolution.

Nothing looks at a whole frame at once, so tiles that overlap enough give what the whole frame gives; but for the
optional front end, whose maps are measured by their spread over the frame.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import can_return_tuple

from .configuration_scalpel_student import ScalpelStudentConfig
from .custom_code import CustomCodeMixin
from .losses import mask_loss
from .moe import PriorPyramid
from .operators import OPERATORS, WhiteBoxOperator
from .segmentation_maps import IGNORE_INDEX, as_two_classes
from .unet import FullResolution, decode, decoder_levels, encoder_levels, pad_to_multiple
from .whole_weights import CheckedWeightsMixin


class Classifier(nn.Conv2d):
    """Foreground logits (B, 1, SH, SW) of features (B, C, H, W) of cells of S x S pixels: a channel for each pixel.

    With `num_maps` there are that many maps; the first holds the logits.
    """

    bias: nn.Parameter

    def __init__(self, in_channels: int, cell: int, num_maps: int = 1) -> None:
        super().__init__(in_channels, cell**2 * num_maps, 3, padding=1)
        self.cell = cell

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(super().forward(x), self.cell)


class ScalpelStudentPreTrainedModel(CheckedWeightsMixin, CustomCodeMixin, PreTrainedModel):
    """Loading, saving and weight initialisation of students."""

    config_class = ScalpelStudentConfig
    base_model_prefix = "student"
    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, WhiteBoxOperator):
            for parameter in module.parameters(recurse=False):
                nn.init.zeros_(parameter)  # the classical operator
        else:
            super()._init_weights(module)
        if isinstance(module, Classifier):
            probability = self.config.initial_probability
            nn.init.normal_(module.weight, std=0.001)  # small, so that the bias decides at first
            nn.init.zeros_(module.bias)
            nn.init.constant_(module.bias[: module.cell**2], math.log(probability / (1 - probability)))


class ScalpelStudentBackbone(ScalpelStudentPreTrainedModel):
    """What the students share: a residual encoder and decoder that give features of a frame's cells.

    A cell has 2 x 2 pixels, or with `full_resolution_channels` one: `cell` is its side, `num_features` how many
    channels the features have.
    """

    def __init__(self, config: ScalpelStudentConfig) -> None:
        super().__init__(config)
        num_channels = config.num_channels
        self.front_end: FrontEnd | None = None
        if config.front_end != "none":
            self.front_end = FrontEnd(config.front_end_scales, learned=config.front_end == "learned")
            num_channels += sum(map(len, config.front_end_scales.values()))
        fine, coarse = config.full_resolution_channels, config.hidden_sizes[0]
        self.cell, self.num_features = (1, fine) if fine else (2, coarse)
        self.full_resolution = FullResolution(num_channels, fine, coarse) if fine else None
        self.encoder = encoder_levels(fine or num_channels, config.hidden_sizes, config.depths)
        self.decoder = decoder_levels(config.hidden_sizes)

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(B, C, H'/S, W'/S) of frames (B, 1, H, W), with H' and W' the next multiples of the coarsest stride, to which
        frames are padded at the bottom and right by repeating their edge, and S the side of a cell.

        Raises `ValueError` on another shape of frames.
        """
        num_channels = self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels:
            raise ValueError(f"`pixel_values` have shape (B, {num_channels}, H, W), got {tuple(pixel_values.shape)}.")
        x = pixel_values if self.front_end is None else self.front_end(pixel_values)
        x = pad_to_multiple(x, 2 ** len(self.encoder))
        if self.full_resolution is not None:
            x = self.full_resolution.before(x)
        fine = x
        levels: list[torch.Tensor] = []  # strides 2, 4, 8, ...
        for level in self.encoder:
            x = level(F.max_pool2d(x, 2) if levels else x)
            levels.append(x)
        x = decode(self.decoder, levels)
        return x if self.full_resolution is None else self.full_resolution.join(fine, x)


class ScalpelStudentForSemanticSegmentation(ScalpelStudentBackbone):
    """Target segmentation at native resolution, frames of any size, with the logits of background and target.

    The head gives one foreground logit a pixel. `forward` returns it as the two classes of the configuration's
    `id2label`, which is what trainings, pipelines and metrics of semantic segmentation count on.

    Examples:
        >>> config = ScalpelStudentConfig.from_size("small")
        >>> model = ScalpelStudentForSemanticSegmentation(config).eval()
        >>> model(torch.zeros(1, 1, 240, 321)).logits.shape
        torch.Size([1, 2, 240, 321])
    """

    def __init__(self, config: ScalpelStudentConfig) -> None:
        super().__init__(config)
        self.classifier = Classifier(self.num_features, self.cell)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        pixel_weights: torch.Tensor | None = None,
        original_sizes: torch.Tensor | None = None,
    ) -> SemanticSegmenterOutput:
        """Logits, and with `labels` the loss: 10 x weighted binary cross-entropy + soft IoU loss of the batch.

        Args:
            pixel_values: normalised frames (B, 1, H, W), any H and W.
            labels: (B, H, W), 0 to 1 (soft labels are fine), 255 where a pixel is ignored.
            pixel_weights: (B, H, W), ≥ 0, the weight of each pixel in the loss. (The `Trainer` takes any argument with
                "label" in its name for one that must be there before it measures.)
            original_sizes: of the image processor, taken so that `model(**inputs)` works; post-processing uses it.

        Returns:
            `SemanticSegmenterOutput` with `logits` (B, 2, H, W), 0 for the background and the foreground logit for the
            target, and, given labels, `loss`.

        Raises:
            ValueError: on another shape of frames or labels, or labels outside [0, 1] other than 255.
        """
        foreground = self.foreground(pixel_values)
        loss = None if labels is None else self._loss(foreground[:, 0], labels, pixel_weights)
        return SemanticSegmenterOutput(loss=loss, logits=as_two_classes(foreground))

    def foreground(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Foreground logits (B, 1, H, W) of normalised frames (B, 1, H, W)."""
        return self.classifier(self.features(pixel_values))[:, :, : pixel_values.shape[2], : pixel_values.shape[3]]

    @torch.no_grad()
    def add_to_logits(self, amount: float) -> None:
        """Add a constant to the foreground logits: it multiplies a target's odds at every pixel by its exponential."""
        self.classifier.bias.add_(amount)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, pixel_weights: torch.Tensor | None) -> torch.Tensor:
        for name, value in (("labels", labels), ("pixel_weights", pixel_weights)):
            if value is not None and value.shape != logits.shape:
                raise ValueError(f"`{name}` have the frames' shape {tuple(logits.shape)}, got {tuple(value.shape)}.")
        valid = labels != IGNORE_INDEX
        target = torch.where(valid, labels, 0).float()
        if not ((target >= 0) & (target <= 1)).all():
            raise ValueError(f"`labels` lie in [0, 1], or are {IGNORE_INDEX} where a pixel is ignored.")
        weight = valid.float() if pixel_weights is None else valid * pixel_weights
        return mask_loss(logits, target, weight)


class FrontEnd(nn.Module):
    """
    A frame and its prior maps, see [`PriorPyramid`]: what the operators see at their initial parameters is the
    classical detectors' answer, each map in its own spread.

    Args:
        scales: for each operator its scales in frame pixels.
        learned: whether the operators' parameters are trained; otherwise they stay as they are.

    Shape: `(B, 1, H, W)` → `(B, 1 + M, H, W)`, M the number of all scales.
    """

    def __init__(self, scales: Mapping[str, Sequence[float]], learned: bool) -> None:
        super().__init__()
        # In one order, whatever that of the configuration, whose file has its keys sorted.
        self.pyramid = PriorPyramid({name: list(scales[name]) for name in OPERATORS if name in scales})
        self.learned = learned

    def forward(self, frames: Tensor) -> Tensor:
        maps, _ = self.pyramid(frames)
        if not self.learned:  # `requires_grad` would be set again by `from_pretrained`
            maps = [m.detach() for m in maps]
        return torch.cat([frames, *maps], 1)


__all__ = [
    "ScalpelStudentBackbone",
    "ScalpelStudentForSemanticSegmentation",
    "ScalpelStudentPreTrainedModel",
]
