"""Models load from files that hold all of their weights and nothing else, or not at all; by names of before, too.

By itself transformers fills in what a file lacks with fresh weights, and logs that: a model that answers nothing.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming

REPORTS = logging.getLogger("transformers.modeling_utils")  # which tables every key that is missing or left over
# Ends of weights' names in files that were saved before, in stand-alone teachers and in adapters.
RENAMED = {r"(mask_level|scalpel_moe_mask(?:\.[^.]+)?)\.keep": r"\1.sam_logit_scale"}


def current_name(name: str) -> str:
    """A weight's name today, whatever it was called when its file was saved."""
    for old, new in RENAMED.items():
        name = re.sub(f"{old}$", new, name)
    return name


class _Renamed(WeightRenaming):
    """For transformers' loading alone: it would take what was used in loading to save by the old name again."""

    __slots__ = ()

    def was_used(self) -> bool:
        return False


def register_renamed_weights() -> None:
    """Have transformers' `from_pretrained` and `load_adapter` know of the names of before; twice does no more."""
    known = get_checkpoint_conversion_mapping("legacy") or []
    if not any(type(entry).__name__ == _Renamed.__name__ for entry in known):
        ours = [_Renamed(source_patterns=f"{old}$", target_patterns=new) for old, new in RENAMED.items()]
        register_checkpoint_conversion_mapping("legacy", [*known, *ours], overwrite=True)


class CheckedWeightsMixin:
    """
    Mixin of models whose `from_pretrained` raises `ValueError`, naming them, where weights are missing, left over, of
    another shape or no numbers, and where the file is damaged.

    `ignore_mismatched_sizes=True` says that parts are meant to start afresh: it then loads as transformers does.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        load = super().from_pretrained  # type: ignore[misc]
        if pretrained_model_name_or_path is None or kwargs.get("ignore_mismatched_sizes"):  # without a file or a check
            return load(pretrained_model_name_or_path, *args, **kwargs)
        return load_whole(load, pretrained_model_name_or_path, *args, **kwargs)


def load_whole(
    load: Callable[..., Any],
    name: Any,
    *args: Any,
    output_loading_info: bool = False,
    **kwargs: Any,
) -> Any:
    """
    What a `from_pretrained` gives for a name, once its weights are found to be whole.

    Args:
        load: the `from_pretrained` of a model or of an Auto class.
        args, kwargs: for it.

    Raises `ValueError` where they are not, and as `load` does.
    """
    try:
        with _reports_held_back():
            model, found = load(name, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
            missing, surplus, mismatched = keys_that_differ(found)
            check_weights(f"{name} holds no whole {type(model).__name__}", missing, surplus, mismatched)
            check_numbers(str(name), model.named_parameters())
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # of a library that isn't for this folder to import
            raise
        raise ValueError(damaged(name, error)) from error
    return (model, found) if output_loading_info else model


def damaged(name: Any, error: Exception) -> str:
    return f"{name}: a file with weights is damaged or was not copied whole ({error}): copy it again"


def keys_that_differ(found: dict[str, Any]) -> tuple[list[str], list[str], dict[str, tuple[Any, Any]]]:
    """From transformers' `loading_info`: names of weights that the file lacks, names of weights that the model lacks,
    and for weights of another shape the shapes in the file and in the model."""
    mismatched = {key: (tuple(there), tuple(here)) for key, there, here in found["mismatched_keys"]}
    missing = [key for key in found["missing_keys"] if key not in mismatched]
    return missing, list(found["unexpected_keys"]), mismatched


def check_weights(what: str, missing: list[str], surplus: list[str], mismatched: dict[str, tuple[Any, Any]]) -> None:
    """
    Raise `ValueError` where there are such weights.

    Args:
        what: beginning of the message.
        mismatched: shape in the file and shape of the model's by the weights' names.
    """
    problems = []
    if missing:
        problems.append(f"{_named(missing)} missing")
    if surplus:
        problems.append(f"{_named(surplus)} left over, for which the model has no place")
    if mismatched:
        first = min(mismatched)
        there, here = (tuple(shape) for shape in mismatched[first])
        problems.append(f"{_named(list(mismatched))} of another shape, {there} in place of {here}")
    if problems:
        raise ValueError(
            f"{what}: {'; '.join(problems)}. The file is not of the model that its configuration describes"
        )


def check_numbers(what: str, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise `ValueError` where a weight is infinite or not a number."""
    for name, weight in weights:
        if weight.is_floating_point() and not weight.is_meta and not torch.isfinite(weight).all():
            raise ValueError(f"{what}: the weight `{name}` holds values that are no numbers: the file is of no use")


def _named(keys: list[str]) -> str:
    """The number of weights and the first of them by name."""
    keys = sorted(keys)
    if len(keys) == 1:
        return f"`{keys[0]}` is"
    others = f" and {len(keys) - 2} others" if len(keys) > 2 else ""
    return f"{len(keys)} weights (`{keys[0]}`, `{keys[1]}`{others}) are"


@contextmanager
def _reports_held_back() -> Iterator[None]:
    """Transformers' tables of keys are logged when the block has ended, and not where it raises: the error says it."""
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        is_report = "LOAD REPORT" in record.getMessage()
        if is_report:
            held.append(record)
        return not is_report

    REPORTS.addFilter(hold)
    try:
        yield
    finally:
        REPORTS.removeFilter(hold)
    for record in held:
        REPORTS.handle(record)


__all__ = [
    "CheckedWeightsMixin",
    "check_numbers",
    "check_weights",
    "current_name",
    "damaged",
    "keys_that_differ",
    "load_whole",
    "register_renamed_weights",
]
