"""The features of a U-Net's decoder, recorded while it runs, and a loss that makes them predict others."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalpel_hf.modeling.mask_level import MaskLevel
from scalpel_hf.modeling.unet import DecoderLevel


def decoder_width(level: MaskLevel, index: int) -> int:
    """Channels of the decoder's output at stride 2, 4 or 8, for an index of 0, 1 or 2."""
    return cast(DecoderLevel, level.decoder[index]).projection.out_channels


@contextmanager
def recorded(levels: nn.ModuleList) -> Iterator[list[Tensor]]:
    """The outputs of a decoder's levels while it runs, the coarsest first."""
    outputs: list[Tensor] = []
    hooks = [level.register_forward_hook(lambda _module, _inputs, output: outputs.append(output)) for level in levels]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def prediction_loss(heads: nn.ModuleList, own: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """1 minus the cosine of wanted features, resized, and a head's map of one's own; the mean over all of them."""
    terms = []
    for head, x, y in zip(heads, own, wanted, strict=True):
        resized = F.interpolate(y, x.shape[2:], mode="bilinear")
        terms.append(1 - F.cosine_similarity(head(x), resized, dim=1).mean())
    return torch.stack(terms).mean()
