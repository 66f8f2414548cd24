"""The students' backbone, a small residual U-Net, and the segmentation student, with logits at native resolution.

Receptive fields are limited, so tiles with enough overlap give the same result as the whole frame.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils import can_return_tuple

from .configuration_scalpel_student import ScalpelStudentConfig
from .custom_code import CustomCodeMixin
from .losses import mask_loss
from .segmentation_maps import as_two_classes, target_and_weight
from .unet import FullResolution, decode, decoder_levels, encoder_levels, pad_to_multiple
from .whole_weights import CheckedWeightsMixin


class Classifier(nn.Conv2d):
    """The head: a convolution and a pixel shuffle, features (B, C, H, W) → (B, `num_maps`, S·H, S·W).

    Each position of the features is a cell of S x S pixels, and gives one value for each of its pixels. The first map
    has the foreground logits.

    Args:
        in_channels: channels C of the features.
        cell: side S of a cell in pixels.
        num_maps: number of maps.
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
        else:
            super()._init_weights(module)
        if isinstance(module, Classifier):
            probability = self.config.initial_probability
            nn.init.normal_(module.weight, std=0.001)  # small, so that the bias determines the first predictions
            nn.init.zeros_(module.bias)
            nn.init.constant_(module.bias[: module.cell**2], math.log(probability / (1 - probability)))


class ScalpelStudentBackbone(ScalpelStudentPreTrainedModel):
    """The backbone of both students: a residual U-Net that computes features of a frame.

    Features are those of cells of 2 x 2 pixels, or with `full_resolution_channels` of single pixels.

    Attributes: `cell`, the side of a cell in pixels, and `num_features`, the number of the features' channels.
    """

    def __init__(self, config: ScalpelStudentConfig) -> None:
        super().__init__(config)
        fine, coarse = config.full_resolution_channels, config.hidden_sizes[0]
        self.cell, self.num_features = (1, fine) if fine else (2, coarse)
        self.full_resolution = FullResolution(config.num_channels, fine, coarse) if fine else None
        self.encoder = encoder_levels(fine or config.num_channels, config.hidden_sizes, config.depths)
        self.decoder = decoder_levels(config.hidden_sizes)

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """
        Compute the features (B, C, H'/S, W'/S) of frames (B, 1, H, W), where S is the side of a cell.

        H' and W' are H and W, rounded up to multiples of the coarsest stride: frames are padded to them at the bottom
        and right, by repeating their edge. Raises `ValueError` for another shape of frames.
        """
        num_channels = self.config.num_channels
        if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels:
            raise ValueError(f"`pixel_values` have shape (B, {num_channels}, H, W), got {tuple(pixel_values.shape)}.")
        x = pad_to_multiple(pixel_values, 2 ** len(self.encoder))
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
    """Segments targets at native resolution, in frames of any size.

    The head predicts one foreground logit for each pixel. `forward` converts it to logits of two classes, background
    and target, which trainers, pipelines and metrics of semantic segmentation expect.

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
        """Predict logits, and with `labels` compute the loss, 10 · weighted binary cross-entropy + soft IoU loss.

        Args:
            pixel_values: normalised frames (B, 1, H, W), any H and W.
            labels: (B, H, W), in [0, 1] (also soft labels), or 255 where a pixel is ignored.
            pixel_weights: (B, H, W), ≥ 0, the weight of each pixel in the loss.
            original_sizes: ignored; accepted so that the image processor's output can be passed as `model(**inputs)`.

        Returns:
            `SemanticSegmenterOutput` with `logits` (B, 2, H, W), which are 0 for the background and the foreground
            logit for the target, and with `labels` the scalar `loss`.

        Raises:
            ValueError: if frames, labels or weights have another shape, or labels are outside [0, 1] and not 255.
        """
        # Not `label_weights`: before a `Trainer` evaluates, it requires all arguments with "label" in their names.
        foreground = self.foreground(pixel_values)
        loss = None if labels is None else self._loss(foreground[:, 0], labels, pixel_weights)
        return SemanticSegmenterOutput(loss=loss, logits=as_two_classes(foreground))

    def foreground(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Foreground logits (B, 1, H, W) of normalised frames (B, 1, H, W)."""
        return self.classifier(self.features(pixel_values))[:, :, : pixel_values.shape[2], : pixel_values.shape[3]]

    @torch.no_grad()
    def add_to_logits(self, amount: float) -> None:
        """Add a constant to all foreground logits, in the classifier's bias: odds are multiplied by exp(amount)."""
        self.classifier.bias.add_(amount)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor, pixel_weights: torch.Tensor | None) -> torch.Tensor:
        """The mask loss of foreground logits `(B, H, W)`. Raises `ValueError` for wrong labels or weights."""
        for name, value in (("labels", labels), ("pixel_weights", pixel_weights)):
            if value is not None and value.shape != logits.shape:
                raise ValueError(f"`{name}` have the frames' shape {tuple(logits.shape)}, got {tuple(value.shape)}.")
        target, weight = target_and_weight(labels)
        return mask_loss(logits, target, weight if pixel_weights is None else weight * pixel_weights)


__all__ = [
    "ScalpelStudentBackbone",
    "ScalpelStudentForSemanticSegmentation",
    "ScalpelStudentPreTrainedModel",
]
