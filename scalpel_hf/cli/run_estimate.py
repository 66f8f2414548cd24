"""Estimates a job's time and disk space on this machine from a few steps of each training."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from scalpel_hf.utils.reading import read_json, read_yaml
from scalpel_hf.utils.recipe_files import recipe_file

from .stages import Stage, times_of

TRIAL_STEPS = 6
FORWARD = 0.4  # time of a prediction, relative to a training step on as many pixels
# Time of the check against a small network, relative to a teacher's training: both are trained on each half of the
# labels, for a third of the steps.
GUARD = 1.25
EXPORT, OVERHEAD = 40.0, 20.0  # seconds
MODELS_GB = 0.3


@dataclass(frozen=True)
class Estimate:
    """The expected seconds of each stage, by its name, and the gigabytes that the job writes."""

    seconds: dict[str, float]
    gigabytes: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def trial_stages(folder: Path, commands: dict[str, list[str]]) -> list[Stage]:
    """
    The stages of the trial: a few steps of each training.

    Args:
        folder: in which each training gets a folder of its own.
        commands: of the trainings by verb, without `--output-dir`.
    """
    short = ["--max-steps", str(TRIAL_STEPS), "--resume", "false", "--watch-split", ""]
    unguarded = {"distill": ["--guard", "false"], "transfer": []}
    return [
        Stage(
            trial_of(verb),
            folder / verb / "metrics.json",
            [*command, *short, *unguarded[verb], "--output-dir", str(folder / verb)],
            silent=True,
        )
        for verb, command in commands.items()
    ]


def trial_of(verb: str) -> str:
    """The name of the stage in which a verb is tried."""
    return f"trial of {verb}"


def estimate(out: Path, commands: dict[str, list[str]], names: Iterable[str]) -> Estimate:
    """
    Estimate the time of a job's stages from the trial in `out/trial`.

    Args:
        out: the job's folder.
        commands: of the two trainings by verb.
        names: of the stages. All but `teacher`, `pseudo labels` and `ONNX` count as trainings of students.
    """
    teacher, student = (settings_of(commands[verb]) for verb in ("distill", "transfer"))
    (step, overhead), (student_step, student_overhead) = (trial(out, verb) for verb in ("distill", "transfer"))
    guard = GUARD / teacher.get("committee", 1) if teacher.get("guard") else 0
    rows = datasets.load_from_disk(str(out / "data"))["train"]
    pixels = sum(w * h for w, h in zip(rows["width"][:], rows["height"][:], strict=True))
    predict = pixels / (teacher["batch_size"] * teacher["crop_size"] ** 2) * step * FORWARD
    known = {
        "teacher": teacher["max_steps"] * step * (1 + guard) + overhead,
        "pseudo labels": predict + overhead,
        "ONNX": EXPORT,
    }
    train_student = student["max_steps"] * student_step + student_overhead
    size = sum(file.stat().st_size for file in (out / "data").rglob("*") if file.is_file()) / 1e9
    return Estimate({name: known.get(name, train_student) for name in names}, 2 * size + MODELS_GB)


def settings_of(command: list[str]) -> dict[str, Any]:
    """The settings in the YAML file of a training's command, with the number of steps from its flags, if given."""
    settings = read_yaml(recipe_file(command[command.index("--config") + 1]))
    if "--max-steps" in command:
        settings["max_steps"] = int(command[command.index("--max-steps") + 1])
    return settings


def trial(out: Path, verb: str) -> tuple[float, float]:
    """Seconds of one training step in a verb's trial, and of all that isn't a step, such as imports. A committee's step
    is one of all its teachers together."""
    training = read_json(out / "trial" / verb / "metrics.json")["training"]
    wall = times_of(out).get(trial_of(verb))
    overhead = OVERHEAD if wall is None else max(0.0, wall - training["seconds"])
    return training["seconds"] / training["steps"], overhead


def minutes(seconds: float) -> str:
    """
    A time in words.

    Examples:
        >>> minutes(40), minutes(600), minutes(9000)
        ('40 seconds', '10 minutes', '2.5 hours')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
