"""Turn the public MobileSAM checkpoint into a folder that `MobileSamModel.from_pretrained` loads, ready for the Hub.

Examples:

    scalpel-hf convert mobile-sam mobile_sam.pt models/mobile-sam
    scalpel-hf convert mobile-sam mobile_sam.pt models/mobile-sam-512 --image-size 512
"""

import hashlib
import re
import sys
from pathlib import Path
from string import Template

import torch
from torch import Tensor
from transformers import SamImageProcessor, SamProcessor

from scalpel_hf.cli.numbers import SIDE
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.modeling.configuration_mobile_sam import MobileSamConfig
from scalpel_hf.modeling.modeling_mobile_sam import MobileSamModel
from scalpel_hf.utils.files import check_can_be_made, whole_folder, write_text
from scalpel_hf.utils.reading import read_bytes

KNOWN_SHA256 = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"
SOURCE_URL = "https://github.com/ChaoningZhang/MobileSAM"
CARD = Path(__file__).with_name("mobile_sam_card.md")

FREQUENCIES = "shared_image_embedding.positional_embedding"

# The ImageNet classifier of TinyViT's pretraining: segmentation has no use for it.
UNUSED_PREFIXES = ("image_encoder.norm_head.", "image_encoder.head.")

# Applied in this order, each to what the ones before it left.
RENAMES = [
    (r"^image_encoder\.patch_embed\.seq\.0\.", "vision_encoder.patch_embed.conv1."),
    (r"^image_encoder\.patch_embed\.seq\.2\.", "vision_encoder.patch_embed.conv2."),
    (r"^image_encoder\.neck\.0\.", "vision_encoder.neck.conv1."),
    (r"^image_encoder\.neck\.1\.", "vision_encoder.neck.layer_norm1."),
    (r"^image_encoder\.neck\.2\.", "vision_encoder.neck.conv2."),
    (r"^image_encoder\.neck\.3\.", "vision_encoder.neck.layer_norm2."),
    (r"^image_encoder\.", "vision_encoder."),
    (r"^(vision_encoder\..*)\.c\.", r"\1.conv."),
    (r"^(vision_encoder\..*)\.bn\.", r"\1.norm."),
    (r"^(vision_encoder\..*)\.attn\.norm\.", r"\1.attn.layer_norm."),
    (r"^(vision_encoder\..*)\.mlp\.norm\.", r"\1.layer_norm."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", FREQUENCIES),
    (r"^prompt_encoder\.point_embeddings\.", "prompt_encoder.point_embed."),
    (r"^prompt_encoder\.mask_downscaling\.0\.", "prompt_encoder.mask_embed.conv1."),
    (r"^prompt_encoder\.mask_downscaling\.1\.", "prompt_encoder.mask_embed.layer_norm1."),
    (r"^prompt_encoder\.mask_downscaling\.3\.", "prompt_encoder.mask_embed.conv2."),
    (r"^prompt_encoder\.mask_downscaling\.4\.", "prompt_encoder.mask_embed.layer_norm2."),
    (r"^prompt_encoder\.mask_downscaling\.6\.", "prompt_encoder.mask_embed.conv3."),
    (r"^mask_decoder\.output_upscaling\.0\.", "mask_decoder.upscale_conv1."),
    (r"^mask_decoder\.output_upscaling\.1\.", "mask_decoder.upscale_layer_norm."),
    (r"^mask_decoder\.output_upscaling\.3\.", "mask_decoder.upscale_conv2."),
    (r"^(mask_decoder\.transformer\..*)norm(\d|_final_attn)\.", r"\1layer_norm\2."),
    (r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d))\.layers\.0\.", r"\1.proj_in."),
    (r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d))\.layers\.2\.", r"\1.proj_out."),
    (r"^(mask_decoder\.(?:iou_prediction_head|output_hypernetworks_mlps\.\d))\.layers\.1\.", r"\1.layers.0."),
]


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """The checkpoint's state dict; raises `ValueError` for a file that isn't one."""
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its zip reader and unpickler raise: no common class
        raise ValueError(
            f"{path} cannot be read as a torch checkpoint of plain tensors: it is truncated or another kind of file. "
            f"Get `mobile_sam.pt` anew from {SOURCE_URL}."
        ) from error
    if not isinstance(state_dict, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state_dict.items()
    ):
        raise ValueError(f"{path} holds no state dict (a dict of tensors). Expected `mobile_sam.pt` of {SOURCE_URL}.")
    return state_dict


def rename(key: str) -> str:
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def convert_state_dict(state_dict: dict[str, Tensor], model: MobileSamModel) -> dict[str, Tensor]:
    """Rename the checkpoint's tensors as the model's; raises `ValueError` unless names and shapes then agree."""
    converted = {rename(key): value for key, value in state_dict.items() if not key.startswith(UNUSED_PREFIXES)}
    if FREQUENCIES in converted:  # tied in the model
        converted["prompt_encoder.shared_embedding.positional_embedding"] = converted[FREQUENCIES]
    expected = model.state_dict()
    problems = [f"not known: {key}" for key in sorted(converted.keys() - expected.keys())]
    problems += [f"missing: {key}" for key in sorted(expected.keys() - converted.keys())]
    problems += [
        f"{key} is {tuple(converted[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & converted.keys())
        if converted[key].shape != expected[key].shape
    ]
    if len(problems) > 20:
        problems[20:] = [f"and {len(problems) - 20} more"]
    if problems:
        raise ValueError("This is no MobileSAM checkpoint:\n  " + "\n  ".join(problems))
    return converted


def build_processor(image_size: int) -> SamProcessor:
    """SAM's processor for square inputs of `image_size` pixels a side; label maps and masks have a quarter of that."""
    mask_size = image_size // 4
    return SamProcessor(
        SamImageProcessor(
            size={"longest_edge": image_size},
            pad_size={"height": image_size, "width": image_size},
            mask_size={"longest_edge": mask_size},
            mask_pad_size={"height": mask_size, "width": mask_size},
        )
    )


def convert(checkpoint: Path, output: Path, image_size: int, overwrite: bool) -> None:
    """
    Write model, processor and card of `checkpoint` to the folder `output`, whole or not at all.

    Raises `FileExistsError` where the folder exists and may not be replaced, and `ValueError` for another checkpoint.
    """
    check_can_be_made(output.parent, "output")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists. Choose another folder, or pass --overwrite to replace it.")
    if output.exists() and not (output / "config.json").is_file():
        raise FileExistsError(f"{output} is no model folder, so it is not replaced. Choose another one.")
    model = MobileSamModel(MobileSamConfig(image_size=image_size))

    sha256 = hashlib.sha256(read_bytes(checkpoint)).hexdigest()
    print(f"sha256 of {checkpoint.name}: {sha256}")
    if sha256 == KNOWN_SHA256:
        verdict = ", the published one"
    else:
        verdict = f", not the published one ({KNOWN_SHA256})"
        print(f"Warning: this is another file than the published one, whose sha256 is {KNOWN_SHA256}", file=sys.stderr)

    state_dict = load_checkpoint(checkpoint)
    model.load_state_dict(convert_state_dict(state_dict, model))
    unused = sum(key.startswith(UNUSED_PREFIXES) for key in state_dict)
    print(f"{len(state_dict)} tensors: {len(state_dict) - unused} converted, {unused} of an unused classifier dropped")

    with whole_folder(output, replace=overwrite) as folder:
        model.save_pretrained(folder)
        build_processor(image_size).save_pretrained(folder)
        card = Template(CARD.read_text(encoding="utf-8")).substitute(
            source_url=SOURCE_URL,
            checkpoint=checkpoint.name,
            sha256=sha256,
            verdict=verdict,
            num_parameters=f"{model.num_parameters():,}",
            image_size=image_size,
            folder=output.name,
        )
        write_text(folder / "README.md", card)
    print(f"Wrote {output}")


def main(arguments: list[str] | None = None) -> None:
    parser = verb_parser("convert mobile-sam", __doc__)
    parser.add_argument("checkpoint", type=Path, help="the published mobile_sam.pt")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--image-size", type=SIDE, default=1024, help="input side, a multiple of 32 (default: 1024)")
    parser.add_argument("--overwrite", action="store_true", help="replace the output folder if it exists")
    args = parser.parse_args(arguments)
    convert(args.checkpoint, args.output, image_size=args.image_size, overwrite=args.overwrite)
