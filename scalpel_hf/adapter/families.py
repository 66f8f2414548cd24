"""The differences between the families of Segment Anything models, in the table `FAMILIES`.

A family's encoder is a list of stages. Each takes and returns a tuple of tensors: the activations, and outputs of
earlier stages that later ones need (skip connections). The last stage returns the mask decoder's inputs.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from scalpel_hf.modeling.normalization import SAM_MEAN, SAM_STD

State = tuple[Tensor, ...]


@dataclass(frozen=True)
class Stage:
    """A part of an encoder: its modules and parameters, and the function from the last stage's output to its own."""

    name: str
    parts: tuple[nn.Module | nn.Parameter, ...]
    run: Callable[[State], State]


@dataclass(frozen=True)
class Family:
    """
    One family of Segment Anything models.

    Args:
        stages: from a model to the stages of its encoder.
        embeddings: from the last stage's output to the result of the model's `get_image_embeddings`.
        ask: from that result to arguments of the model's `forward`.
        resize: sets another input size in a model's configuration.
        multiple: input sizes must be multiples of this, or of `patch_size` if it is 0.
        mlp: name of the MLP in an encoder block.
        channels_first: whether the MLPs' inputs are `(B, C, h, w)`, not `(B, h, w, C)`.
        fine: if there are embeddings at strides 4 and 8 too: their channels are those at stride 16 divided by these.
        mean, std: normalisation of the input's channels, on a scale of 0 to 255.
    """

    stages: Callable[[Any], list[Stage]]
    embeddings: Callable[[State], Any]
    ask: Callable[[Any], dict[str, Any]]
    resize: Callable[[Any, int], None]
    multiple: int = 0
    mlp: str = "mlp"
    channels_first: bool = False
    fine: tuple[int, ...] = ()
    mean: tuple[float, float, float] = SAM_MEAN
    std: tuple[float, float, float] = SAM_STD


def family_of(model: nn.Module) -> Family:
    """
    The family of a base model.

    Raises `ValueError` for other models, and for stand-alone teachers, which have a mask level already.
    """
    names = [cls.__name__ for cls in type(model).__mro__]
    found = next((FAMILIES[name] for name in names if name in FAMILIES), None)
    if found is None or hasattr(model, "mask_level"):
        raise ValueError(
            f"ScalpelMoeConfig adapts Segment Anything models ({', '.join(FAMILIES)}), not {type(model).__name__}"
        )
    return found


def base_of(model: Any) -> Any:
    """The base model of a `PeftModel`; any other model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def input_size(model: Any) -> int:
    """Side of a base model's square input in pixels."""
    return int(model.config.prompt_encoder_config.image_size)


def sam_input(model: Any) -> dict[str, Any]:
    """Arguments of an [`InfraredImageProcessor`] for a base model: `sam_size`, and mean and std if not SAM's."""
    family, size = family_of(model), {"sam_size": input_size(model)}
    return size if family.mean == SAM_MEAN else {**size, "sam_mean": family.mean, "sam_std": family.std}


def tensors_of(embeddings: Any) -> Iterator[Tensor]:
    """All tensors in the result of `get_image_embeddings`."""
    if isinstance(embeddings, Tensor):
        yield embeddings
    else:
        for part in embeddings:
            yield from tensors_of(part)


def _blocks(prefix: str, blocks: Any) -> list[Stage]:
    """A stage for each of an encoder's blocks."""

    def run(block: nn.Module) -> Callable[[State], State]:
        return lambda state: (block(state[0]), *state[1:])

    return [Stage(f"{prefix}.{index}", (block,), run(block)) for index, block in enumerate(blocks)]


def _sam_stages(model: Any) -> list[Stage]:
    """Patch embedding with positions (MobileSAM has none), blocks (MobileSAM: layers), neck."""
    encoder = model.vision_encoder
    positions = getattr(encoder, "pos_embed", None)

    def patches(state: State) -> State:
        x = encoder.patch_embed(state[0])
        return (x if positions is None else x + positions,)

    parts = (encoder.patch_embed,) if positions is None else (encoder.patch_embed, positions)
    return [
        Stage("patch_embed", parts, patches),
        *_blocks("layers", encoder.layers),
        Stage("neck", (encoder.neck,), lambda state: (encoder.neck(state[0]), *state[1:])),
    ]


def _sam_hq_stages(model: Any) -> list[Stage]:
    """SAM's stages; the mask decoder also gets the output of the first block with global attention."""
    stages = _sam_stages(model)

    def keep(stage: Stage) -> Stage:
        def run(state: State) -> State:
            state = stage.run(state)
            return (*state, state[0])

        return Stage(stage.name, stage.parts, run)

    layers = list(model.vision_encoder.layers)
    first = next((i for i, layer in enumerate(layers) if layer.window_size == 0), None)
    return [keep(stage) if first is not None and i == first + 1 else stage for i, stage in enumerate(stages)]


def _pyramid(model: Any, neck: Callable[[State], list[Tensor]]) -> Stage:
    """The neck of SAM 2 and later, with what the model does to its maps (finest first) before the decoder."""
    decoder, nothing = model.mask_decoder, model.no_memory_embedding

    def run(state: State) -> State:
        maps = list(neck(state))
        maps[0], maps[1] = decoder.conv_s0(maps[0]), decoder.conv_s1(maps[1])
        maps[-1] = maps[-1] + nothing.reshape(1, -1, 1, 1)
        return tuple(maps[: len(model.backbone_feature_sizes)])

    return Stage("neck", (model.vision_encoder.neck, decoder.conv_s0, decoder.conv_s1, nothing), run)


def _finest_first(model: Any, maps: State) -> list[Tensor]:
    encoder = model.vision_encoder
    return list(encoder.neck(maps)[0][-encoder.num_feature_levels :][::-1])


def _sam2_stages(model: Any) -> list[Stage]:
    """Hiera; the neck gets the output of the last block of each of its four stages."""
    backbone = model.vision_encoder.backbone

    def patches(state: State) -> State:
        x = backbone.patch_embed(state[0])
        return (x + backbone._get_pos_embed(x.shape[1:3]),)

    def block(index: int, module: nn.Module) -> Stage:
        def run(state: State) -> State:
            x = module(state[0])
            return (x, *state[1:], x) if index in backbone.stage_ends else (x, *state[1:])

        return Stage(f"blocks.{index}", (module,), run)

    return [
        Stage("patch_embed", (backbone.patch_embed, backbone.pos_embed, backbone.pos_embed_window), patches),
        *(block(index, module) for index, module in enumerate(backbone.blocks)),
        _pyramid(model, lambda state: _finest_first(model, state[1:])),
    ]


def _edgetam_stages(model: Any) -> list[Stage]:
    """The backbone is a convolutional network from timm, treated as one stage."""
    encoder = model.vision_encoder

    def backbone(state: State) -> State:
        return tuple(maps.permute(0, 2, 3, 1) for maps in encoder.backbone(state[0]).last_hidden_state)

    return [
        Stage("backbone", (encoder.backbone,), backbone),
        _pyramid(model, lambda state: _finest_first(model, state)),
    ]


def _sam3_stages(model: Any) -> list[Stage]:
    """A plain ViT; the neck makes maps at all scales from its single output."""
    backbone = model.vision_encoder.backbone
    patch = backbone.config.patch_size

    def patches(state: State) -> State:
        height, width = (side // patch for side in state[0].shape[-2:])
        return (backbone.layer_norm(backbone.embeddings(state[0]).unflatten(1, (height, width))),)

    return [
        Stage("embeddings", (backbone.embeddings, backbone.layer_norm), patches),
        *_blocks("layers", backbone.layers),
        _pyramid(model, lambda state: list(model.vision_encoder.neck(state[0].permute(0, 3, 1, 2))[0])),
    ]


def _embedding(state: State) -> Tensor:
    """The embedding is the result of `get_image_embeddings`."""
    return state[0]


def _ask_with_embedding(embeddings: Any) -> dict[str, Any]:
    return {"image_embeddings": embeddings}


def _with_intermediates(state: State) -> tuple[Tensor, list[Tensor]]:
    """The result of `get_image_embeddings` has the outputs of earlier blocks too, as in SAM-HQ."""
    return state[0], list(state[1:])


def _ask_with_intermediates(embeddings: Any) -> dict[str, Any]:
    return {"image_embeddings": embeddings[0], "intermediate_embeddings": embeddings[1]}


def _resize_sam(config: Any, size: int) -> None:
    vision, prompt = config.vision_config, config.prompt_encoder_config
    vision.image_size = prompt.image_size = size
    prompt.image_embedding_size = size // vision.patch_size


def _resize_mobile_sam(config: Any, size: int) -> None:
    config.image_size = size


def _resize_pyramid(config: Any, size: int) -> None:
    prompt, vision = config.prompt_encoder_config, config.vision_config
    side = size // prompt.patch_size
    prompt.image_size = size
    vision.backbone_feature_sizes = [[scale * side, scale * side] for scale in (4, 2, 1)]
    if getattr(vision.backbone_config, "image_size", None) is not None:  # of a ViT: a Hiera takes any
        vision.backbone_config.image_size = size


FINE = (8, 4)
HALF = (127.5, 127.5, 127.5)

# Keys are class names: older versions of transformers lack some of the classes.
FAMILIES = {
    "SamModel": Family(stages=_sam_stages, embeddings=_embedding, ask=_ask_with_embedding, resize=_resize_sam),
    "MobileSamModel": Family(
        stages=_sam_stages, embeddings=_embedding, ask=_ask_with_embedding, resize=_resize_mobile_sam, multiple=32
    ),
    "SamHQModel": Family(
        stages=_sam_hq_stages, embeddings=_with_intermediates, ask=_ask_with_intermediates, resize=_resize_sam
    ),
    "Sam2Model": Family(
        stages=_sam2_stages, embeddings=list, ask=_ask_with_embedding, resize=_resize_pyramid, multiple=32, fine=FINE
    ),
    "EdgeTamModel": Family(
        stages=_edgetam_stages,
        embeddings=list,
        ask=_ask_with_embedding,
        resize=_resize_pyramid,
        multiple=32,
        mlp="channel_mixer",
        channels_first=True,
        fine=FINE,
    ),
    "Sam3TrackerModel": Family(
        stages=_sam3_stages,
        embeddings=list,
        ask=_ask_with_embedding,
        resize=_resize_pyramid,
        fine=FINE,
        mean=HALF,
        std=HALF,
    ),
}
