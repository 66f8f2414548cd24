"""What SAM says of frames and crops, for the ablations."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy import ndimage
from torch import Tensor, nn

from scalpel_hf.adapter.families import sam_input
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.data.transforms import Sample
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.modeling.mask_level import sample_region
from scalpel_hf.modeling.normalization import to_sam_input
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.training.background import consensus
from scalpel_hf.training.gate_fitting import half_of_faintest_response, target_responses
from scalpel_hf.utils.files import whole_file

MASK_SIZE, FEATURE_SIZE = 1024, 320  # sides of SAM's input for masks of whole frames and for features of crops
SURE_BACKGROUND = 0.1
MARGIN = 2  # pixels around a rejected target that are ignored


class SamMasks:
    """
    SAM's masks of what a network finds in unlabelled frames, at 1024 pixels.

    Args:
        base_model: a `SamModel` or MobileSAM.
        labelled: samples with masks; half of the operators' weakest response to one of their targets is the threshold.
        folder: keeps the frames' image embeddings, for every seed.
    """

    def __init__(self, base_model: str, labelled: list[Sample], folder: Path):
        self.base_model, self.folder = base_model, folder
        threshold = half_of_faintest_response(target_responses(labelled, consensus))
        assert threshold is not None, "the operators respond to no labelled target"
        self.threshold = threshold

    @torch.no_grad()
    def ask(self, sample: Sample, name: str, probability: np.ndarray, own_masks: bool = False) -> Sample:
        """
        An unlabelled frame with SAM's masks as its target.

        SAM is asked with the box of each region above 0.5 to which an operator responds. Its mask's pixels weigh its
        predicted IoU times r / (r + threshold), with r the consensus of the operators. Sure background weighs |2p - 1|;
        regions that the operators don't confirm, and their surroundings, weigh nothing. With `own_masks` the targets
        are the confirmed regions themselves, weighed by |2p - 1|.
        """
        regions, count = ndimage.label(probability > 0.5, EIGHT_CONNECTED)
        response = ndimage.maximum(consensus(sample.frame), regions, range(1, count + 1))
        confirmed = [number for number, r in enumerate(response, 1) if r >= self.threshold]
        target = np.zeros_like(sample.frame)
        weight = np.where(probability < SURE_BACKGROUND, 1 - 2 * probability, 0).astype(np.float32)
        if own_masks:
            own = np.isin(regions, confirmed)
            target[own], weight[own] = 1, 2 * probability[own] - 1
        elif confirmed:
            places = ndimage.find_objects(regions)
            windows = [places[number - 1] for number in confirmed]
            boxes = torch.tensor([[c.start, r.start, c.stop, r.stop] for r, c in windows], dtype=torch.float32)
            masks, ious = self._masks(sample.frame, name, boxes)
            for number, mask, iou in zip(confirmed, masks, ious, strict=True):
                agreement = response[number - 1] / (response[number - 1] + self.threshold)
                target[mask] = 1
                weight[mask | ndimage.binary_dilation(regions == number, iterations=MARGIN)] = iou * agreement
        rejected = (regions > 0) & ~np.isin(regions, confirmed)
        weight[ndimage.binary_dilation(rejected, iterations=MARGIN)] = 0
        return Sample(sample.frame, target=target, weight=weight)

    def _masks(self, frame: np.ndarray, name: str, boxes: Tensor) -> tuple[np.ndarray, list[float]]:
        """Masks `(n, H, W)`, bool, and predicted IoUs of boxes `(n, 4)` as (x0, y0, x1, y1) in the frame's pixels."""
        model, processor = sam(self.base_model, MASK_SIZE)
        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            inputs = processor([frame], return_tensors="pt")
            embedding = model.get_image_embeddings(inputs["pixel_values"])
            with whole_file(file) as part:
                save_file({"embedding": embedding.half().contiguous(), "frame_box": inputs["frame_boxes"]}, part)
        stored = load_file(file)
        scale = stored["frame_box"][0, 2:] / torch.tensor(frame.shape[::-1])
        outputs = model(
            image_embeddings=stored["embedding"].float(),
            input_boxes=(boxes * scale.repeat(2))[None],
            multimask_output=False,
        )
        logits = outputs.pred_masks[0].transpose(0, 1)  # (1, n, 256, 256)
        whole = sample_region(logits, stored["frame_box"], input_size=MASK_SIZE, size=frame.shape)[0]
        return (whole > 0).numpy(), outputs.iou_scores[0, :, 0].clamp(0, 1).tolist()


@cache
def sam(base_model: str, size: int) -> tuple[Any, InfraredImageProcessor]:
    model = load_sam(base_model, size)
    return model, InfraredImageProcessor(normalization="range", **sam_input(model))


@torch.no_grad()
def early_features(base_model: str, crops: Tensor) -> list[Tensor]:
    """
    MobileSAM's features of crops `(B, 1, 160, 160)` enlarged to 320 pixels: those at strides 8 and 16 of its input,
    which are 4 and 8 of the crops, channels first, normalised to length 1.
    """
    model, processor = sam(base_model, FEATURE_SIZE)
    inputs = [to_sam_input(c[0], FEATURE_SIZE, mean=processor.sam_mean, std=processor.sam_std)[0] for c in crops]
    encoder = model.vision_encoder
    features, x = [], encoder.patch_embed(torch.stack(inputs))
    for stage in encoder.layers[:2]:
        x = stage(x)
        features.append(nn.functional.normalize(x, dim=1))
    return features
