"""Strict loading: a file must contain all weights of a model and no others, or loading it is an error.

Transformers itself initialises missing weights and only logs that. Such a model would predict nothing of use.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

REPORTS = logging.getLogger("transformers.modeling_utils")  # logs a table of missing and unexpected keys


class CheckedWeightsMixin:
    """
    Mixin for models: `from_pretrained` raises `ValueError` if weights are missing, unexpected, of another shape or not
    finite, or if the file is damaged. The message names the weights.

    With `ignore_mismatched_sizes=True` it loads as transformers does, and initialises weights that don't fit.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        load = super().from_pretrained  # type: ignore[misc]
        if pretrained_model_name_or_path is None or kwargs.get("ignore_mismatched_sizes"):  # no file, or not strict
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
    Load a model, and check that the file has exactly its weights and that they are finite.

    Args:
        load: the `from_pretrained` of a model or of an Auto class.
        name: folder or repository.
        args: further arguments of `load`.
        output_loading_info: whether to return transformers' loading info as well, as `from_pretrained` does.
        kwargs: further arguments of `load`.

    Returns the model, or `(model, loading_info)`. Raises `ValueError` if the check fails, and the errors of `load`.
    """
    try:
        with _hold_back_reports():
            model, found = load(name, *args, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
            missing, unexpected, mismatched = keys_that_differ(found)
            what = f"{name} doesn't hold the weights of a {type(model).__name__}"
            check_weights(what, missing=missing, unexpected=unexpected, mismatched=mismatched)
            check_numbers(str(name), model.named_parameters())
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # of safetensors, which files in this folder may not import
            raise
        raise ValueError(damaged(name, error)) from error
    return (model, found) if output_loading_info else model


def damaged(name: Any, error: Exception) -> str:
    """The message for a file of weights that safetensors can't read."""
    return f"{name}: a file with weights is damaged or was not copied whole ({error}): copy it again"


def keys_that_differ(found: dict[str, Any]) -> tuple[list[str], list[str], dict[str, tuple[Any, Any]]]:
    """
    Read transformers' loading info.

    Returns the names of missing weights (not in the file), the names of unexpected weights (not in the model), and for
    each weight of another shape `(shape in the file, shape in the model)` by its name.
    """
    mismatched = {key: (tuple(there), tuple(here)) for key, there, here in found["mismatched_keys"]}
    missing = [key for key in found["missing_keys"] if key not in mismatched]
    return missing, list(found["unexpected_keys"]), mismatched


def check_weights(what: str, missing: list[str], unexpected: list[str], mismatched: dict[str, tuple[Any, Any]]) -> None:
    """
    Raise `ValueError` if weights are missing, unexpected or of another shape, see [`keys_that_differ`].

    Args:
        what: beginning of the message.
        missing: names of weights that the file lacks.
        unexpected: names of weights that the model lacks.
        mismatched: shapes in the file and in the model, by the weights' names.
    """
    problems = []
    if missing:
        problems.append(f"{_named(missing)} missing")
    if unexpected:
        problems.append(f"{_named(unexpected)} left over, for which the model has no place")
    if mismatched:
        first = min(mismatched)
        there, here = (tuple(shape) for shape in mismatched[first])
        problems.append(f"{_named(list(mismatched))} of another shape, {there} in place of {here}")
    if problems:
        raise ValueError(
            f"{what}: {'; '.join(problems)}. The file is not of the model that its configuration describes"
        )


def check_numbers(what: str, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise `ValueError` if a weight is NaN or infinite. `what` is the beginning of the message."""
    for name, weight in weights:
        if weight.is_floating_point() and not weight.is_meta and not torch.isfinite(weight).all():
            raise ValueError(f"{what}: the weight `{name}` has NaN or infinite values: the file can't be used")


def _named(keys: list[str]) -> str:
    """The subject of a sentence: the number of weights and the first names, with the verb."""
    keys = sorted(keys)
    if len(keys) == 1:
        return f"`{keys[0]}` is"
    others = f" and {len(keys) - 2} others" if len(keys) > 2 else ""
    return f"{len(keys)} weights (`{keys[0]}`, `{keys[1]}`{others}) are"


@contextmanager
def _hold_back_reports() -> Iterator[None]:
    """Log transformers' tables of keys at the end of the block. If it raises, drop them: the error names the keys."""
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
    "damaged",
    "keys_that_differ",
    "load_whole",
]
