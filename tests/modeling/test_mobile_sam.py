import inspect
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import SamModel

from scalpel_hf.modeling.configuration_mobile_sam import MobileSamConfig, MobileSamVisionConfig
from scalpel_hf.modeling.modeling_mobile_sam import MobileSamModel, MobileSamWindowAttention


def tiny_config(**vision: object) -> MobileSamConfig:
    vision_config = {
        "embed_dims": [8, 16, 16, 24],
        "depths": [1, 1, 2, 1],
        "num_attention_heads": [1, 2, 2, 3],
        "window_sizes": [7, 7, 3, 3],  # 8 x 8 and 4 x 4 tokens: both padded
        "output_channels": 32,
        "initializer_range": 0.2,
        "image_size": 64,
    }
    return MobileSamConfig(
        initializer_range=0.2,  # masks of a size that absolute tolerances mean something for
        vision_config=vision_config | vision,
        prompt_encoder_config={"hidden_size": 32},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32},
    )


def tiny_model(seed: int = 0, **vision: object) -> MobileSamModel:
    """A small model none of whose parameters is at a value that hides it."""
    torch.manual_seed(seed)
    model = MobileSamModel(tiny_config(**vision))
    for name, tensor in model.vision_encoder.state_dict().items():
        if name.endswith(("attention_biases", "norm.bias", "running_mean")):
            tensor.normal_(std=0.5)
        elif name.endswith(("norm.weight", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture
def model() -> MobileSamModel:
    return tiny_model()


@pytest.fixture
def pixel_values() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


# --- configuration ---------------------------------------------------------------------------------------------------


def sizes(config: MobileSamConfig) -> tuple:
    prompt = config.prompt_encoder_config
    return config.image_size, config.vision_config.image_size, prompt.image_size, prompt.image_embedding_size


def test_image_size_is_kept_in_step() -> None:
    expected = (512, 512, 512, 32)
    assert sizes(MobileSamConfig(image_size=512)) == expected
    assert sizes(MobileSamConfig(vision_config={"image_size": 512})) == expected
    assert sizes(MobileSamConfig(vision_config=MobileSamVisionConfig(image_size=512))) == expected
    config = MobileSamConfig()
    assert sizes(config) == (1024, 1024, 1024, 64)
    config.image_size = 512
    assert sizes(config) == expected
    assert sizes(MobileSamConfig.from_dict(config.to_dict())) == expected
    assert sizes(MobileSamConfig.from_dict(MobileSamConfig().to_dict(), image_size=512)) == expected
    assert "image_size" not in config.to_dict()  # it has one home: the vision config


@pytest.mark.parametrize("image_size", [0, -32, 100, 500, "64", 64.0, None, (64, 64)])
def test_image_size_must_be_a_multiple_of_32(image_size: object) -> None:
    config = tiny_config()
    with pytest.raises(ValueError, match="multiple of 32"):
        config.image_size = image_size
    assert sizes(config) == (64, 64, 64, 4)


@pytest.mark.parametrize(
    "vision, message",
    [
        ({"image_size": 100}, "multiple of 32"),
        ({"depths": [1, 1, 1]}, "`depths` needs one value for each of the 4 stages"),
        ({"num_attention_heads": [1, 3, 2, 3]}, "3 attention heads do not divide 16 channels"),
        ({"patch_size": 12}, "`patch_size` must be"),
        ({"output_channels": 64}, "must be equal"),
    ],
)
def test_contradictory_configs_are_refused(vision: dict, message: str) -> None:
    with pytest.raises(Exception, match=message):
        tiny_config(**vision)


# --- encoder ---------------------------------------------------------------------------------------------------------


def test_fresh_model_sees_its_input(pixel_values: Tensor) -> None:
    """Neither embedding nor masks of a freshly drawn model are constant across space, or from image to image."""
    torch.manual_seed(0)
    model = MobileSamModel(MobileSamConfig(image_size=64)).eval()  # as published, default initialisation
    embeddings = model.get_image_embeddings(pixel_values)
    assert embeddings.std(dim=(2, 3)).mean() > 0.3
    assert (embeddings[0] - embeddings[1]).abs().mean() > 0.3
    masks = model(pixel_values).pred_masks
    assert (masks.std(dim=(3, 4)) > 0.3 * masks.abs().mean(dim=(3, 4))).all()
    attention = model.vision_encoder.layers[1].blocks[0].attn
    assert not attention.attention_biases.any()
    norm = model.vision_encoder.patch_embed.conv1.norm
    assert (norm.weight == 1).all() and (norm.running_var == 1).all() and not norm.bias.any()


def test_encoder_is_the_chain_of_its_parts(model: MobileSamModel, pixel_values: Tensor) -> None:
    encoder = model.vision_encoder
    tokens: list[tuple[int, ...]] = []
    for name, module in encoder.named_modules():
        if name.endswith(".mlp"):
            module.register_forward_hook(lambda _, args, out: tokens.extend([tuple(args[0].shape), tuple(out.shape)]))
    states = encoder.patch_embed(pixel_values)
    shapes = [tuple(states.shape)]
    for layer in encoder.layers:
        states = layer(states)
        shapes.append(tuple(states.shape))
    assert shapes == [(2, 8, 16, 16), (2, 16, 8, 8), (2, 16, 4, 4), (2, 24, 4, 4), (2, 24, 4, 4)]
    assert tokens == [(2, 8, 8, 16)] * 2 + [(2, 4, 4, 16)] * 4 + [(2, 4, 4, 24)] * 2
    embeddings = encoder.neck(states)
    assert embeddings.shape == (2, 32, 4, 4)
    assert torch.equal(encoder(pixel_values).last_hidden_state, embeddings)
    assert torch.equal(model.get_image_embeddings(pixel_values), embeddings)


def test_hidden_states_are_the_stages(model: MobileSamModel, pixel_values: Tensor) -> None:
    hidden_states = model(pixel_values, output_hidden_states=True).vision_hidden_states
    assert [tuple(state.shape[1:]) for state in hidden_states] == [
        (8, 16, 16),
        (16, 8, 8),
        (16, 4, 4),
        *[(24, 4, 4)] * 2,
    ]
    assert model(pixel_values).vision_hidden_states is None


@pytest.mark.parametrize("height, width", [(7, 7), (3, 3), (5, 8), (2, 1)])
def test_window_attention_by_hand(height: int, width: int) -> None:
    """Against a loop over pairs of tokens; tokens beyond the map are zeros before the layer norm."""
    torch.manual_seed(0)
    size, heads, dim = 3, 2, 8
    attention = MobileSamWindowAttention(dim, heads, size, layer_norm_eps=1e-5).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    states = torch.randn(2, height, width, dim, dtype=torch.float64)
    expected = torch.empty_like(states)
    for image, y, x in torch.cartesian_prod(torch.arange(2), torch.arange(height), torch.arange(width)).tolist():
        top, left = y - y % size, x - x % size
        cells = [(top + i, left + j) for i in range(size) for j in range(size)]
        window = [
            states[image, i, j] if i < height and j < width else torch.zeros_like(states[0, 0, 0]) for i, j in cells
        ]
        qkv = attention.qkv(attention.layer_norm(torch.stack(window)))
        qkv = qkv.reshape(size**2, heads, 3, dim // heads)  # each head's query, key and value lie side by side
        out = []
        for head in range(heads):
            query = qkv[cells.index((y, x)), head, 0]
            bias = [attention.attention_biases[head, abs(y - i) * size + abs(x - j)] for i, j in cells]
            scores = qkv[:, head, 1] @ query / (dim // heads) ** 0.5 + torch.stack(bias)
            out.append(scores.softmax(0) @ qkv[:, head, 2])
        expected[image, y, x] = attention.proj(torch.cat(out))
    torch.testing.assert_close(attention(states), expected, rtol=1e-10, atol=1e-10)


def test_input_of_another_size_is_an_error(model: MobileSamModel) -> None:
    with pytest.raises(ValueError, match=r"96 x 96 pixels, the model takes 64 x 64.*image_size=96"):
        model(torch.zeros(1, 3, 96, 96))
    with pytest.raises(ValueError, match="64 x 96"):
        model(torch.zeros(1, 3, 64, 96))
    with pytest.raises(ValueError, match="pixel_values"):
        model.vision_encoder()


@pytest.mark.parametrize("patch_size, stride", [(8, 8), (32, 32)])
def test_other_strides(patch_size: int, stride: int, pixel_values: Tensor) -> None:
    model = tiny_model(patch_size=patch_size)
    side = 64 // stride
    assert model.get_image_embeddings(pixel_values).shape[-2:] == (side, side)
    assert model(pixel_values).pred_masks.shape[-2:] == (4 * side, 4 * side)


# --- model -----------------------------------------------------------------------------------------------------------


def test_it_is_a_sam_model(model: MobileSamModel, pixel_values: Tensor) -> None:
    assert isinstance(model, SamModel)
    assert inspect.signature(MobileSamModel.forward) == inspect.signature(SamModel.forward)
    assert model.get_input_embeddings() is model.vision_encoder.patch_embed
    points = torch.tensor([[[[10.0, 20.0]], [[40.0, 30.0]]]]).repeat(2, 1, 1, 1)  # (2 images, 2 objects, 1 point, xy)
    outputs = model(pixel_values, input_points=points)
    assert outputs.pred_masks.shape == (2, 2, 3, 16, 16)
    assert outputs.iou_scores.shape == (2, 2, 3)
    embeddings = model.get_image_embeddings(pixel_values)
    assert torch.equal(model(image_embeddings=embeddings, input_points=points).pred_masks, outputs.pred_masks)
    boxes = torch.tensor([[[5.0, 5.0, 30.0, 40.0]]]).repeat(2, 1, 1)
    assert model(pixel_values, input_boxes=boxes, multimask_output=False).pred_masks.shape == (2, 1, 1, 16, 16)
    sparse, dense = model.get_prompt_embeddings(input_boxes=boxes)
    assert sparse.shape == (2, 1, 2, 32) and dense.shape == (2, 32, 4, 4)
    assert model.get_image_wide_positional_embeddings().shape == (1, 32, 4, 4)


def test_a_result_does_not_depend_on_its_neighbours(model: MobileSamModel, pixel_values: Tensor) -> None:
    together = model(pixel_values).pred_masks
    alone = torch.cat([model(image[None]).pred_masks for image in pixel_values])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_weights_loaded_after_eval_are_used(pixel_values: Tensor) -> None:
    """No attention bias is remembered from before the load."""
    source, target = tiny_model(seed=0), tiny_model(seed=1)
    target.eval()
    target(pixel_values)
    target.load_state_dict(source.state_dict())
    expected = source(pixel_values).pred_masks
    assert torch.equal(target(pixel_values).pred_masks, expected)
    with torch.no_grad():
        target.vision_encoder.layers[2].blocks[1].attn.attention_biases[:, 1] += 1
    assert not torch.equal(target(pixel_values).pred_masks, expected)


def test_save_and_load(model: MobileSamModel, pixel_values: Tensor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded, info = MobileSamModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    frequencies = loaded.shared_image_embedding.positional_embedding
    assert loaded.prompt_encoder.shared_embedding.positional_embedding is frequencies
    assert torch.equal(loaded(pixel_values).pred_masks, model(pixel_values).pred_masks)


@pytest.mark.parametrize("change", [{"image_size": 96}, {"vision_config": {"image_size": 96}}])
def test_load_at_another_size(model: MobileSamModel, tmp_path: Path, change: dict) -> None:
    model.save_pretrained(tmp_path)
    larger = MobileSamModel.from_pretrained(tmp_path, **change)
    assert sizes(larger.config) == (96, 96, 96, 6)
    assert larger.prompt_encoder.input_image_size == 96
    assert larger.prompt_encoder.image_embedding_size == (6, 6)
    points = torch.tensor([[[[50.0, 90.0]]]])
    assert larger(torch.zeros(1, 3, 96, 96), input_points=points).pred_masks.shape == (1, 1, 3, 24, 24)
    for name, tensor in model.state_dict().items():
        assert torch.equal(larger.state_dict()[name], tensor), name
    larger.save_pretrained(tmp_path / "larger")
    assert sizes(MobileSamModel.from_pretrained(tmp_path / "larger").config) == (96, 96, 96, 6)
    with pytest.raises(ValueError, match="multiple of 32"):
        MobileSamModel.from_pretrained(tmp_path, image_size=100)


def test_gradient_reaches_every_encoder_parameter(model: MobileSamModel, pixel_values: Tensor) -> None:
    model(pixel_values).pred_masks.square().sum().backward()
    dead = [name for name, p in model.vision_encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_is_exact(pixel_values: Tensor, use_reentrant: bool) -> None:
    plain, saving = tiny_model().train(), tiny_model().train()
    saving.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    blocks = [block for layer in saving.vision_encoder.layers for block in layer.blocks]
    assert all(block.gradient_checkpointing for block in blocks)
    runs = []
    blocks[-1].attn.register_forward_hook(lambda *_: runs.append(1))
    for model in (plain, saving):
        model(pixel_values).pred_masks.square().sum().backward()
    assert len(runs) == 2  # forward, and again in backward
    for expected, parameter in zip(plain.parameters(), saving.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(parameter.grad, expected.grad)


def test_running_statistics_stay_in_eval_mode(model: MobileSamModel, pixel_values: Tensor) -> None:
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model(pixel_values)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
    model.train()(pixel_values)
    assert not any(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())


def test_bfloat16(model: MobileSamModel, pixel_values: Tensor) -> None:
    expected = model.get_image_embeddings(pixel_values)
    embeddings = model.to(torch.bfloat16).get_image_embeddings(pixel_values.to(torch.bfloat16))
    assert embeddings.dtype == torch.bfloat16
    assert F.cosine_similarity(embeddings.float(), expected, dim=1).min() > 0.99
    assert model(pixel_values.to(torch.bfloat16)).pred_masks.dtype == torch.bfloat16


def test_eager_attention_is_the_same(model: MobileSamModel, pixel_values: Tensor, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    eager = MobileSamModel.from_pretrained(tmp_path, attn_implementation="eager")
    torch.testing.assert_close(eager(pixel_values).pred_masks, model(pixel_values).pred_masks, rtol=1e-4, atol=1e-5)
