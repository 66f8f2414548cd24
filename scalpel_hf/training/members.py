"""The members of a committee: the settings that each is trained with, and how they become one teacher."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import datasets
from accelerate import Accelerator

from scalpel_hf.predictors.committee import STUDENT, TEACHER, Committee, member_folder
from scalpel_hf.predictors.teacher import Teacher

from .recipe_arguments import DistillArguments, LoopArguments, TransferArguments

# `(args, accelerator, rows, held-out frames) → (trained model, outcome of `train`)`
Trained = tuple[Any, dict[str, Any]]
Train = Callable[[DistillArguments, Accelerator, datasets.Dataset, datasets.Dataset | None], Trained]


def committee_members(args: DistillArguments) -> list[tuple[str, DistillArguments]]:
    """
    The kind, `teacher` or `student`, and the settings of each of `args.committee` members.

    Members are by turns a teacher with operators, a teacher without them, and a small student trained on the same
    labels: the errors of different networks are less correlated (docs/log.md).
    """
    without_operators = [level for level in args.levels if level != "pixel"] or args.levels
    return [
        (
            STUDENT if number % 3 == 2 else TEACHER,
            replace(
                args,
                committee=1,
                output_dir=f"{args.output_dir}/{member_folder(number)}".rstrip("/"),
                seed=args.seed + 1000 * number,
                feature_cache_dir=args.features_folder,
                levels=args.levels if number % 3 == 0 else without_operators,
            ),
        )
        for number in range(args.committee)
    ]


def small_network(args: DistillArguments) -> TransferArguments:
    """Settings of a small student on the same labels. Its steps are fast, so it trains for 2.5 times as many."""
    loop = {field.name: getattr(args, field.name) for field in fields(LoopArguments)}
    loop |= {"max_steps": 5 * args.max_steps // 2, "push_to_hub": ""}
    own = {name: getattr(args, name) for name in ("dataset", "normalization", "crop_size", "box_weight")}
    return TransferArguments(**loop, **own)


def as_one_teacher(trained: Sequence[Trained]) -> tuple[Teacher, dict[str, Any]]:
    """The trained networks as one teacher, a [`Committee`] if there are several; and the outcome of their training."""
    members, outcomes = zip(*trained, strict=True)
    if len(members) == 1:
        return members[0], outcomes[0]
    seconds = sum(outcome["seconds"] for outcome in outcomes)
    return Committee(members), {**outcomes[0], "seconds": seconds, "other members": list(outcomes[1:])}
