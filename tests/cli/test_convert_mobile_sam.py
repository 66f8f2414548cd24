import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from safetensors.torch import load_file
from transformers import SamProcessor

from scalpel_hf.cli import convert_mobile_sam, push
from scalpel_hf.modeling.modeling_mobile_sam import MobileSamModel
from tests.hub.server import HubServer


@pytest.fixture(scope="module")
def checkpoint(shared_dir: Path) -> Path:
    return shared_dir / "weights" / "mobile_sam.pt"


@pytest.fixture(scope="module")
def converted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "nested" / "mobile-sam"
    convert_mobile_sam.main([str(checkpoint), str(folder), "--image-size", "512"])
    return folder


def fails(*arguments: object) -> str:
    """What the command says is wrong."""
    with pytest.raises((OSError, ValueError)) as stop:
        convert_mobile_sam.main([str(argument) for argument in arguments])
    return str(stop.value)


def test_folder_is_complete(converted: Path) -> None:
    files = {path.name for path in converted.iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "processor_config.json"}
    assert [path.name for path in converted.parent.iterdir()] == ["mobile-sam"]  # no scratch left
    model, info = MobileSamModel.from_pretrained(converted, output_loading_info=True)
    assert not any(info.values()), info
    processor = SamProcessor.from_pretrained(converted)
    pixel_values = processor(Image.new("RGB", (40, 30), "red"), return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, 512, 512) and model.config.image_size == 512
    red = (255 - 123.675) / 58.395
    assert pixel_values[0, 0, 0, 0].item() == pytest.approx(red, rel=1e-4)
    assert not pixel_values[..., 384:, :].any()  # 30 / 40 of the side, then zeros


def test_every_tensor_arrives_unchanged(converted: Path, checkpoint: Path) -> None:
    source = convert_mobile_sam.load_checkpoint(checkpoint)
    target = load_file(converted / "model.safetensors")
    unused = convert_mobile_sam.UNUSED_PREFIXES
    names = {key: convert_mobile_sam.rename(key) for key in source if not key.startswith(unused)}
    assert len(source) == 439 and len(names) == 435
    assert set(names.values()) == set(target)  # one to one: the model's tied copy is stored once
    assert all(torch.equal(source[old], target[new]) for old, new in names.items())


def test_card(converted: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its metadata is there and its two snippets run."""
    card = (converted / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f`, the published one" in card
    no_parameters = (*convert_mobile_sam.UNUSED_PREFIXES, "running_mean", "running_var", "num_batches_tracked")
    tensors = convert_mobile_sam.load_checkpoint(checkpoint).items()
    parameters = sum(tensor.numel() for key, tensor in tensors if not any(part in key for part in no_parameters))
    assert f"{parameters:,} parameters" in card and "$" not in card
    snippets = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    assert len(snippets) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mobile-sam").symlink_to(converted)
    Image.effect_noise((200, 160), 40).save("image.png")
    names: dict = {}
    exec(snippets[0], names)
    assert names["masks"][0].shape == (1, 1, 160, 200)
    exec(snippets[1], names)
    assert names["model"].config.image_size == names["processor"].target_size == 512


def test_pushed_its_card_loads_it_from_there(converted: Path, client: HfApi, hub: HubServer, tmp_path: Path) -> None:
    push.main([str(converted), "org/mobile-sam"])
    card = Path(client.hf_hub_download("org/mobile-sam", "README.md", cache_dir=tmp_path / "cache")).read_text()
    assert "Intended use and misuse" in card and "## Licence" in card
    Image.effect_noise((200, 160), 40).save(tmp_path / "image.png")
    snippets = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    end = "assert masks[0].shape == (1, 1, 160, 200) and model.config.image_size == processor.target_size == 512"
    hub.run("\n".join([*snippets, end]), tmp_path)
    code = """
from transformers import AutoModelForMaskGeneration, AutoProcessor

model = AutoModelForMaskGeneration.from_pretrained("org/mobile-sam", trust_remote_code=True)
print(type(model).__name__, type(AutoProcessor.from_pretrained("org/mobile-sam", trust_remote_code=True)).__name__)
"""
    assert hub.run(code, tmp_path, without_package=True).split() == ["MobileSamModel", "SamProcessor"]


def test_checksum_is_shown_and_another_one_is_a_warning(
    checkpoint: Path, converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert_mobile_sam.main([str(checkpoint), str(tmp_path / "a")])
    out, err = capsys.readouterr()
    assert convert_mobile_sam.KNOWN_SHA256 in out and "435 converted, 4 of an unused classifier dropped" in out
    assert "Warning" not in err
    again = tmp_path / "again.pt"
    torch.save(convert_mobile_sam.load_checkpoint(checkpoint), again)
    convert_mobile_sam.main([str(again), str(tmp_path / "b"), "--image-size", "512"])
    out, err = capsys.readouterr()
    assert convert_mobile_sam.KNOWN_SHA256 not in out and "Warning: this is another file than the published one" in err
    assert "not the published one" in (tmp_path / "b" / "README.md").read_text()
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "b" / name).read_bytes() == (converted / name).read_bytes()


def test_existing_output(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "model"
    output.mkdir()
    (output / "config.json").write_text("old")
    assert "--overwrite" in fails(checkpoint, output)
    assert os.listdir(output) == ["config.json"]
    convert_mobile_sam.main([str(checkpoint), str(output), "--overwrite"])
    assert MobileSamModel.from_pretrained(output).config.image_size == 1024
    assert os.listdir(tmp_path) == ["model"]
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "dear.txt").write_text("irreplaceable")
    assert "no model folder" in fails(checkpoint, letters, "--overwrite")
    assert (letters / "dear.txt").read_text() == "irreplaceable"


class Innocent:
    pass


def write_truncated(path: Path, checkpoint: Path) -> None:
    path.write_bytes(checkpoint.read_bytes()[:1_000_000])


def write_without_a_tensor(path: Path, checkpoint: Path) -> None:
    tensors = torch.load(checkpoint, weights_only=True)
    tensors["mask_decoder.riddle"] = tensors.pop("mask_decoder.iou_token.weight")
    tensors["image_encoder.neck.0.weight"] = torch.zeros(256, 128, 1, 1)
    torch.save(tensors, path)


@pytest.mark.parametrize(
    "write, messages",
    [
        (lambda path, _: path.write_text("<html>not found</html>"), ["cannot be read as a torch checkpoint"]),
        (lambda path, _: path.write_bytes(b""), ["cannot be read as a torch checkpoint"]),
        (lambda path, _: torch.save({"model": Innocent()}, path), ["cannot be read as a torch checkpoint"]),
        (lambda path, _: torch.save([1, 2], path), ["holds no state dict"]),
        (lambda path, _: torch.save({"model": {"weight": torch.ones(1)}}, path), ["holds no state dict"]),
        (lambda path, _: torch.save({"weight": torch.ones(1)}, path), ["not known: weight", "and 417 more"]),
        (lambda path, _: None, ["No such file"]),
        (write_truncated, ["truncated", "Get `mobile_sam.pt` anew"]),
        (
            write_without_a_tensor,
            [
                "not known: mask_decoder.riddle",
                "missing: mask_decoder.iou_token.weight",
                "vision_encoder.neck.conv1.weight is (256, 128, 1, 1), expected (256, 320, 1, 1)",
            ],
        ),
    ],
)
def test_what_is_no_checkpoint(
    checkpoint: Path, tmp_path: Path, write: Callable[[Path, Path], object], messages: list[str]
) -> None:
    path = tmp_path / "mobile_sam.pt"
    write(path, checkpoint)
    before = os.listdir(tmp_path)
    said = fails(path, tmp_path / "output")
    for message in messages:
        assert message in said
    assert os.listdir(tmp_path) == before


def test_image_size_is_checked_first(tmp_path: Path) -> None:
    assert "multiple of 32" in fails(tmp_path / "none.pt", tmp_path / "output", "--image-size", "500")
