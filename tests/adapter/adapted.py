"""The bases and the adapter that the tests of this folder share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from scalpel_hf import ScalpelMoeConfig
from tests.small_models import FAMILIES, perturb, small_sam

BASES: dict[str, Callable[[], nn.Module]] = {
    "sam-windowed-sdpa": lambda: small_sam(()),
    "sam-global-sdpa": lambda: small_sam((0, 1, 2)),
    "sam-eager": lambda: small_sam(attn_implementation="eager"),
    **FAMILIES,
}
SCALES = {"local_contrast": [3, 5], "top_hat": [2, 4], "matched_filter": [1, 2], "anisotropic_diffusion": [1, 2]}


def small_config(**kwargs: object) -> ScalpelMoeConfig:
    return ScalpelMoeConfig(**{"scales": SCALES, "bottleneck": 8, **kwargs})


def adapted(base: nn.Module, moved: bool = True, **kwargs: object) -> PeftModel:
    model = get_peft_model(base, small_config(**kwargs)).eval()
    if moved:
        perturb(model)
    return model


def masks(model: nn.Module, **inputs: object) -> Tensor:
    return model(**inputs, multimask_output=False).pred_masks


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Relative to the largest value."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.abs().max().item())


class Operations(TorchDispatchMode):
    """The names and shapes of everything that torch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.seen.append(f"{func} {getattr(result, 'shape', '')}")
        return result


@contextmanager
def operations() -> Iterator[list[str]]:
    with torch.no_grad(), Operations() as mode:
        yield mode.seen
