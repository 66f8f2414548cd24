"""The evaluation of a model after its training, on the split that `eval_split` names."""

from typing import Any

import datasets

from scalpel_hf.evaluation.evaluator import evaluate_predictor
from scalpel_hf.evaluation.unseen import TrainedOn, rows_to_measure

from .recipe_arguments import DistillArguments, TransferArguments


def rows_to_test(args: DistillArguments | TransferArguments, trained_on: TrainedOn) -> datasets.Dataset | None:
    """
    The rows of `args.eval_split` to evaluate the trained model on; `None` if no split is named.

    Called before the training, so that an unfit split is an error then. Raises `ValueError` as [`rows_to_measure`].
    """
    if not args.eval_split:
        return None
    return rows_to_measure(args.dataset, args.eval_split, known=trained_on, remedy="`--eval_split ''` for no metrics")


def metrics_by_split(
    args: DistillArguments | TransferArguments, predictor: Any, rows: datasets.Dataset | None
) -> dict[str, dict[str, Any]]:
    """The trained model's metrics on the rows of [`rows_to_test`], by split; empty without rows."""
    return {} if rows is None else {args.eval_split: evaluate_predictor(predictor, rows)}
