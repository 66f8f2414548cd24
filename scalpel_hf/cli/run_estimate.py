"""How long a job takes on this machine, and how much room: by a few steps of each training."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from scalpel_hf.utils.reading import read_json, read_yaml
from scalpel_hf.utils.recipe_files import recipe_file

from .stages import Stage, times_of

TRIAL_STEPS = 6
FORWARD = 0.4  # share of a step's time that a prediction takes of as many pixels
GUARD = 1.25  # of a teacher's time: two halves by itself and by a small network, a third of the steps each
EXPORT, OVERHEAD = 40.0, 20.0  # seconds
MODELS_GB = 0.3


@dataclass(frozen=True)
class Estimate:
    """Seconds of each stage by its name, and how much is written."""

    seconds: dict[str, float]
    gigabytes: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def trial_stages(folder: Path, commands: dict[str, list[str]]) -> list[Stage]:
    """A few steps of each training."""
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
    return f"trial of {verb}"


def estimate(out: Path, commands: dict[str, list[str]], names: Iterable[str]) -> Estimate:
    """
    How long the named stages will take, from the trials in `out/trial`. Stages of an unknown name count as students.

    Args:
        commands: of the two trainings that the trials belong to.
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
    """The recipe's settings, and what the command's own flags say of the steps."""
    settings = read_yaml(recipe_file(command[command.index("--config") + 1]))
    if "--max-steps" in command:
        settings["max_steps"] = int(command[command.index("--max-steps") + 1])
    return settings


def trial(out: Path, verb: str) -> tuple[float, float]:
    """Seconds of a step, of all of a committee's teachers together, and of all besides the steps."""
    training = read_json(out / "trial" / verb / "metrics.json")["training"]
    wall = times_of(out).get(trial_of(verb))
    overhead = OVERHEAD if wall is None else max(0.0, wall - training["seconds"])
    return training["seconds"] / training["steps"], overhead


def minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
