"""Export of teachers as two ONNX graphs: SAM's encoder, and the decoder with the adapter's mask level."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from peft import get_peft_model_state_dict
from torch import Tensor, nn
from transformers import SamModel

from scalpel_hf.adapter import link_frames
from scalpel_hf.adapter.families import input_size
from scalpel_hf.modeling.normalization import SAM_MEAN, SAM_STD
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.runtime.settings import TEACHER_FILE, hashes
from scalpel_hf.utils.files import write_json

from .onnx_files import OPSET, checked, difference, hash_state, whole_or_not_at_all

ENCODER_FILE, DECODER_FILE = "encoder.onnx", "decoder.onnx"


class TeacherEncoder(nn.Module):
    """`pixel_values` (B, 3, S, S), SAM's input → `image_embeddings` (B, C, S / 16, S / 16)."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.encoder = teacher.model.get_base_model().vision_encoder

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.encoder(pixel_values).last_hidden_state


class TeacherDecoder(nn.Module):
    """`image_embeddings`, `frames` (B, 1, H, W), normalised, `frame_boxes` (B, 4) → `logits` (B, 1, H, W)."""

    def __init__(self, teacher: Teacher):
        super().__init__()
        self.model = teacher.model.get_base_model()

    def forward(self, image_embeddings: Tensor, frames: Tensor, frame_boxes: Tensor) -> Tensor:
        link_frames(image_embeddings, frames=frames, frame_boxes=frame_boxes, input_size=input_size(self.model))
        return self.model(image_embeddings=image_embeddings, multimask_output=False).pred_masks[:, 0]


def export_teacher(teacher: Teacher, folder: str | Path, threshold: float = 0.5) -> None:
    """
    Export a teacher: write encoder.onnx, decoder.onnx and teacher.json.

    The encoder has SAM's fixed input size; the decoder takes frames of any size. Both take any batch size.

    Args:
        teacher: with a `SamModel` or `MobileSamModel` as base.
        folder: to write to.
        threshold: probability above which a pixel is target, for teacher.json.

    Raises `ValueError` for other bases.
    """
    base = teacher.one_model.get_base_model()
    if not isinstance(base, SamModel):
        raise ValueError(f"a teacher is exported as ONNX on SamModel and MobileSamModel, not on {type(base).__name__}")
    size, processor = input_size(base), teacher.processor
    pixel_values = torch.randn(2, 3, size, size)
    frames, boxes = torch.randn(2, 1, 64, 96), torch.tensor([0.0, 0.0, size, size * 64 / 96]).expand(2, 4)
    encoder, decoder = TeacherEncoder(teacher).eval(), TeacherDecoder(teacher).eval()
    with whole_or_not_at_all(folder, TEACHER_FILE) as work, torch.no_grad():
        embeddings = encoder(pixel_values)
        _trace(encoder, {"pixel_values": pixel_values}, output="image_embeddings", path=work / ENCODER_FILE)
        inputs = {"image_embeddings": embeddings, "frames": frames, "frame_boxes": boxes.contiguous()}
        _trace(decoder, inputs, output="logits", path=work / DECODER_FILE)
        config = {
            "normalization": processor.normalization,
            "percentiles": processor.percentiles,
            "sam_size": size,
            "sam_mean": SAM_MEAN,
            "sam_std": SAM_STD,
            "threshold": threshold,
            "opset": OPSET,
            "id2label": {"0": "background", "1": "target"},
            "files": hashes(work),
            "weights": hash_state(get_peft_model_state_dict(teacher.model, save_embedding_layers=False)),
        }
        write_json(work / TEACHER_FILE, config)


def _trace(model: nn.Module, inputs: dict[str, Tensor], output: str, path: Path) -> None:
    """Export a module to an ONNX file, with dynamic batch size and frame size."""
    # By tracing: torch.export takes minutes for the operators with dynamic sizes, and fixes the encoder's batch size.
    axes = {name: {0: "batch"} for name in [*inputs, output]}
    for name in ("frames", "logits"):
        axes.get(name, {}).update({2: "height", 3: "width"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer itself, and of every size that Python reads
        torch.onnx.export(
            model,
            tuple(inputs.values()),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes=axes,
        )


@torch.no_grad()
def check_teacher(teacher: Teacher, folder: str | Path, frames: Iterable[Any]) -> float:
    """
    Largest difference between the probabilities of an exported teacher and the teacher itself on some frames, without
    tiles.

    Raises `ValueError` if it exceeds 1e-4, and without frames.
    """
    encoder, decoder = (
        onnxruntime.InferenceSession(str(Path(folder) / name), providers=["CPUExecutionProvider"])
        for name in (ENCODER_FILE, DECODER_FILE)
    )
    taken = {value.name for value in decoder.get_inputs()}  # without a mask level, not the frames
    differences = []
    for frame in frames:
        inputs = teacher.processor(frame, return_tensors="pt")
        pixel_values, region = inputs["pixel_values"], {name: inputs[name] for name in ("frames", "frame_boxes")}
        (embeddings,) = encoder.run(None, {"pixel_values": pixel_values.numpy()})
        feed = {"image_embeddings": embeddings, **{name: region[name].numpy() for name in region if name in taken}}
        logits = torch.from_numpy(decoder.run(None, feed)[0])
        expected = teacher.model(pixel_values, **region, multimask_output=False).pred_masks[:, 0]
        differences.append(difference(logits.sigmoid(), expected.sigmoid()))
    return checked(differences)
