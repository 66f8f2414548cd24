"""The networks of a committee: what each is trained with, and all of them as one teacher."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import datasets
from accelerate import Accelerator

from scalpel_hf.predictors.committee import STUDENT, TEACHER, Committee, member_folder
from scalpel_hf.predictors.teacher import Teacher

from .recipe_arguments import DistillArguments, LoopArguments, TransferArguments

# From arguments, accelerator, rows and frames held out to what was trained, and how its training went.
Trained = tuple[Any, dict[str, Any]]
Train = Callable[[DistillArguments, Accelerator, datasets.Dataset, datasets.Dataset | None], Trained]


def committee_members(args: DistillArguments) -> list[tuple[str, DistillArguments]]:
    """
    The kind, `teacher` or `student`, of each network that `args.committee` asks for, and its own arguments.

    Three kinds take turns, as networks that differ err less alike (docs/log.md): a teacher with operators, one of the
    frame alone, and a small student of the same labels.
    """
    frame_alone = [level for level in args.levels if level != "pixel"] or args.levels
    return [
        (
            STUDENT if number % 3 == 2 else TEACHER,
            replace(
                args,
                committee=1,
                output_dir=f"{args.output_dir}/{member_folder(number)}".rstrip("/"),
                seed=args.seed + 1000 * number,
                feature_cache_dir=args.features_folder,
                levels=args.levels if number % 3 == 0 else frame_alone,
            ),
        )
        for number in range(args.committee)
    ]


def small_network(args: DistillArguments) -> TransferArguments:
    """Of a student of the same labels: its steps take so little that it gets two and a half times as many."""
    loop = {field.name: getattr(args, field.name) for field in fields(LoopArguments)}
    loop |= {"max_steps": 5 * args.max_steps // 2, "push_to_hub": ""}
    own = {name: getattr(args, name) for name in ("dataset", "normalization", "crop_size", "box_weight")}
    return TransferArguments(**loop, **own)


def as_one_teacher(trained: Sequence[Trained]) -> tuple[Teacher, dict[str, Any]]:
    """A committee of the networks, or the only one; and how their trainings went."""
    members, outcomes = zip(*trained, strict=True)
    if len(members) == 1:
        return members[0], outcomes[0]
    seconds = sum(outcome["seconds"] for outcome in outcomes)
    return Committee(members), {**outcomes[0], "seconds": seconds, "other members": list(outcomes[1:])}
