"""Strict loading of adapters and processors: damaged or incomplete files give an error that names them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from transformers import AutoImageProcessor, PreTrainedModel

from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.modeling.whole_weights import check_numbers, check_weights, damaged
from scalpel_hf.utils.reading import read_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", ("adapter_model.safetensors", "adapter_model.bin")
# A committee's file, beside its first adapter, and the subfolders of its other members.
COMMITTEE_FILE, MEMBER_FOLDERS = "committee.json", "committee-*"
PROCESSOR_CONFIGS = ("preprocessor_config.json", "processor_config.json")


@contextmanager
def loading(name: str | Path, *configs: str) -> Iterator[None]:
    """
    Turn the libraries' various exceptions for damaged files into a `ValueError` of one line that names the model.

    Args:
        name: folder or repository that is loaded inside the block.
        configs: names of JSON files in the folder; those that exist are checked first.
    """
    for config in configs:
        if (Path(name) / config).is_file():
            read_json(Path(name) / config)
    try:
        yield
    except OSError as error:
        if error.errno is None and Path(name).is_dir():  # what transformers raises for a file that isn't there
            raise ValueError(not_whole(name, " ".join(str(error).split()))) from error
        raise
    except (ImportError, MemoryError):
        raise
    except ValueError as error:
        if str(name) in str(error):
            raise
        raise ValueError(f"{name} can't be loaded: {' '.join(str(error).split())}") from error
    except SafetensorError as error:
        raise ValueError(damaged(name, error)) from error
    except Exception as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{name} can't be loaded, its files are damaged or of another format: {said}") from error


def not_whole(folder: str | Path, problem: str) -> str:
    """What to say of a model's folder that lacks a file."""
    return f"{folder} isn't a whole model ({problem.rstrip('.')}): copy it again from where it was made"


def load_image_processor(name: str | Path, **kwargs: Any) -> InfraredImageProcessor:
    """The image processor in a folder or repository; `ValueError` if it isn't an [`InfraredImageProcessor`]."""
    folder = Path(name) / kwargs.get("subfolder", "")
    if folder.is_dir() and not any((folder / file).is_file() for file in PROCESSOR_CONFIGS):
        raise ValueError(not_whole(folder, f"there is no {PROCESSOR_CONFIGS[0]}"))
    path = folder / PROCESSOR_CONFIGS[0]
    # Without the type, transformers would choose another image processor from the model's type.
    if path.is_file() and not read_json(path).get("image_processor_type"):
        raise ValueError(f"{path} isn't an image processor's: `image_processor_type` is missing")
    with loading(name, *PROCESSOR_CONFIGS):
        processor = AutoImageProcessor.from_pretrained(str(name), **kwargs)
    if type(processor).__name__ != InfraredImageProcessor.__name__:  # custom code makes a class of the same name
        raise ValueError(
            f"{name}: frames are prepared by an InfraredImageProcessor, not by a {type(processor).__name__}: load a "
            "model that was saved by this package"
        )
    return processor


def load_adapter_config(name: str | Path, subfolder: str | None = None, **hub: Any) -> PeftConfig:
    """An adapter's configuration; `ValueError`, which names the file, if it is missing or damaged."""
    folder = Path(name) / (subfolder or "")
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        if folder.is_dir():
            raise ValueError(f"{folder} holds no adapter: there is no {ADAPTER_CONFIG}")
        if Path(name).is_dir():
            raise ValueError(not_whole(name, f"there is no folder {subfolder}"))
        try:
            path = Path(hf_hub_download(str(name), ADAPTER_CONFIG, subfolder=subfolder, **hub))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"there is no {ADAPTER_CONFIG} at {str(name)!r}, which is neither a folder with an adapter nor a "
                f"repository that the Hub gives: {str(error).strip().splitlines()[0]}"
            ) from error
    content = read_json(path)
    for key in ("peft_type", "base_model_name_or_path", "revision"):
        if not isinstance(content.get(key), str | None) or (key == "peft_type" and not content.get(key)):
            raise ValueError(f"{path}: `{key}` must be text, not {content.get(key)!r}")
    try:
        return PeftConfig.from_peft_type(**content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} isn't an adapter's configuration: {' '.join(str(error).split())}") from error


def load_adapter(base: PreTrainedModel, name: str | Path, config: PeftConfig, **hub: Any) -> PeftModel:
    """
    A `PeftModel` of a base model and the adapter in a folder or repository, in evaluation mode.

    Raises `ValueError`, which names the weights, if some of the adapter's are missing, unexpected, of another shape or
    not finite, and `FileNotFoundError` without a file of weights.
    """
    folder = Path(name) / hub.get("subfolder", "")
    if folder.is_dir() and not any((folder / file).is_file() for file in ADAPTER_WEIGHTS):
        raise FileNotFoundError(f"{folder} holds no weights of an adapter: there is no {ADAPTER_WEIGHTS[0]}")
    config.inference_mode = True
    with loading(name):
        weights = load_peft_weights(str(name), device="cpu", **hub)
        model = PeftModel(base, config)
        expected = get_peft_model_state_dict(model, save_embedding_layers=False)
        shared = expected.keys() & weights.keys()
        shapes = {key: (weights[key].shape, expected[key].shape) for key in shared}
        check_weights(
            f"{name} doesn't hold the weights of an adapter",
            missing=list(expected.keys() - weights.keys()),
            unexpected=list(weights.keys() - expected.keys()),
            mismatched={key: pair for key, pair in shapes.items() if pair[0] != pair[1]},
        )
        integers = [key for key in shared if expected[key].is_floating_point() and not weights[key].is_floating_point()]
        if integers:
            raise ValueError(f"{name}: the weight `{min(integers)}` holds integers: the file is damaged")
        check_numbers(str(name), weights.items())
        # `PeftModel.from_pretrained` only warns of missing weights and ignores unexpected ones.
        set_peft_model_state_dict(model, weights)
    return model.eval()
