"""Loads Segment Anything models at any input size, and adapters on them."""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASK_GENERATION_MAPPING
from transformers.utils import cached_file

from scalpel_hf.adapter.families import FAMILIES, family_of, input_size
from scalpel_hf.hub.repo_names import SNAPSHOT, is_hub_id, lasting_name
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.modeling.whole_weights import load_whole

from .strict_loading import load_adapter, load_adapter_config, load_image_processor, loading

OF_THE_HUB = ("revision", "cache_dir", "token", "local_files_only")


def load_sam(name_or_path: str | Path, image_size: int | None = None, **kwargs: Any) -> PreTrainedModel:
    """
    Load a Segment Anything model from a folder or the Hub, frozen, in evaluation mode.

    Args:
        name_or_path: a folder or repository with a model of one of `FAMILIES`, such as `facebook/sam-vit-base`.
        image_size: side of the input in pixels, if not the checkpoint's own; see [`resize_sam`].
        kwargs: of `from_pretrained`: `revision`, `cache_dir`, `dtype`, `attn_implementation` and others.

    Raises:
        ValueError: if there is no model, one of another kind, or one that can't have this input size.
    """
    if not name_or_path:
        raise ValueError("no base model given: name its folder or its repository on the Hub")
    name = str(name_or_path)
    lasting, revision = lasting_name(name)
    try:
        with loading(name, "config.json"):
            if is_hub_id(name):
                kwargs["revision"] = revision = hub_commit(name, **kwargs)
            config = AutoConfig.from_pretrained(name, **kwargs)
    except OSError as error:
        raise ValueError(
            f"{name!r} is neither a folder with a model nor a model that the Hub gives: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    kind = MODEL_FOR_MASK_GENERATION_MAPPING.get(type(config), None)
    if kind is None or kind.__name__ not in FAMILIES:
        raise ValueError(f"{name} is a {config.model_type!r} model, not one of {', '.join(FAMILIES)}")
    with loading(name):
        model = load_whole(kind.from_pretrained, name, **kwargs)
        model = model if image_size is None else resize_sam(model, image_size)
    model.name_or_path = model.config.name_or_path = lasting
    model.config._commit_hash = revision  # read by `record_base`; not saved in config.json
    return model.requires_grad_(False).eval()


def load_adapted(
    name_or_path: str | Path, base: str | Path | None = None, dtype: torch.dtype | None = None, **hub: Any
) -> tuple[PeftModel, InfraredImageProcessor]:
    """
    Load a teacher's adapter on its base, at the input size that it was trained with, and its image processor.

    Args:
        name_or_path: folder or repository of the adapter.
        base: folder or repository of the base model. By default the adapter's `base_model_name_or_path`, at the commit
            that the adapter's configuration records.
        dtype: of the base's weights.
        hub: `revision` and `subfolder` of the adapter; `cache_dir`, `token` and `local_files_only` of adapter and base.
    """
    name, of_both = str(name_or_path), {key: hub[key] for key in hub if key not in ("revision", "subfolder")}
    config, processor = load_adapter_config(name, **hub), load_image_processor(name, **hub)
    if processor.sam_size is None:
        raise ValueError(f"{name}: the image processor has no `sam_size`: it is a student's, not a teacher's")
    if dtype is not None:
        of_both["dtype"] = dtype
    if base is None and config.revision:
        of_both["revision"] = config.revision
    try:
        sam = load_sam(base or config.base_model_name_or_path or "", processor.sam_size, **of_both)
    except (OSError, ValueError) as error:
        if base is not None:
            raise
        raise ValueError(
            f"{name} can't be loaded without its base model, {config.base_model_name_or_path!r}: {error}; name its "
            "folder or repository with `base=` in Python, or with the flag `--base-model`"
        ) from error
    return load_adapter(sam, name, config, **hub), processor


def hub_commit(name: str, **kwargs: Any) -> str | None:
    """The commit that `from_pretrained` would load from a repository with these arguments."""
    config = cached_file(name, "config.json", **{key: kwargs[key] for key in OF_THE_HUB if key in kwargs})
    found = SNAPSHOT.search(Path(config).as_posix()) if config else None
    return found["revision"] if found else kwargs.get("revision")


def resize_sam(model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """
    A copy of a model for another input size, or the model itself if it has this size.

    In `SamModel` and `SamHQModel`, the absolute position embeddings are interpolated bicubically, and the relative ones
    of the layers with global attention linearly, as SAM itself does for other sizes. All other weights, and all weights
    of other families, don't depend on the size.

    Args:
        model: a Segment Anything model.
        image_size: side of the input in pixels, a multiple of the patch size (ViT encoders) or of 32 (others).

    Raises `ValueError` for another `image_size`.
    """
    config, family = copy.deepcopy(model.config), family_of(model)
    multiple = family.multiple or config.prompt_encoder_config.patch_size
    if image_size <= 0 or image_size % multiple:
        raise ValueError(f"`image_size` must be a positive multiple of {multiple} pixels, got {image_size!r}")
    if image_size == input_size(model):
        return model
    family.resize(config, image_size)

    side = image_size // multiple
    tensors = model.state_dict()
    everywhere = getattr(config.vision_config, "global_attn_indexes", ())
    for name in tensors:
        if name == "vision_encoder.pos_embed":
            tensors[name] = _resize_table(tensors[name], side)
        elif name.endswith((".rel_pos_h", ".rel_pos_w")) and int(name.split(".")[2]) in everywhere:
            tensors[name] = _resize_offsets(tensors[name], 2 * side - 1)
    return type(model).from_pretrained(None, config=config, state_dict=tensors, dtype=model.dtype)


def _resize_table(table: Tensor, side: int) -> Tensor:
    """Interpolate absolute position embeddings, `(1, h, w, C)` → `(1, side, side, C)`."""
    channels_first = table.float().permute(0, 3, 1, 2)
    resized = F.interpolate(channels_first, size=(side, side), mode="bicubic", align_corners=False)
    return resized.permute(0, 2, 3, 1).to(table.dtype).contiguous()


def _resize_offsets(offsets: Tensor, length: int) -> Tensor:
    """Interpolate relative position embeddings, one row for each offset, `(2 h − 1, C)` → `(length, C)`."""
    resized = F.interpolate(offsets.float().T[None], size=length, mode="linear", align_corners=False)
    return resized[0].T.to(offsets.dtype).contiguous()
