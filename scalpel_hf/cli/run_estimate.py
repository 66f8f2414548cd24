"""How long a job takes on this machine, and how much room: by a few steps of each training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from scalpel_hf.utils.files import read_json, read_yaml
from scalpel_hf.utils.recipe_files import recipe_file

from .stages import Stage

TRIAL_STEPS = 6
FORWARD = 0.4  # share of a step's time that a prediction takes of as many pixels
OVERHEAD = 30.0  # seconds of a stage besides its steps: imports, reading, evaluation
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
    short = ["--max-steps", str(TRIAL_STEPS), "--eval-split", "", "--resume", "false"]
    alone = {"distill": ["--committee", "1", "--guard", "false"], "transfer": []}
    return [
        Stage(
            f"trial of {verb}",
            folder / verb / "metrics.json",
            [*command, *short, *alone[verb], "--output-dir", str(folder / verb)],
        )
        for verb, command in commands.items()
    ]


def estimate(out: Path, commands: dict[str, list[str]]) -> Estimate:
    """From the trials in `out/trial`, what the stages of `out` will take."""
    teacher, student = (settings_of(commands[verb]) for verb in ("distill", "transfer"))
    step = {verb: seconds_of_a_step(out / "trial" / verb) for verb in commands}
    members = teacher.get("committee", 1)
    thirds = 2 / 3 if teacher.get("guard") else 0  # two halves by both arms, a third of the steps each
    train_teacher = teacher["max_steps"] * step["distill"] * members * (1 + thirds)
    train_student = student["max_steps"] * step["transfer"]
    rows = datasets.load_from_disk(str(out / "data"))["train"]
    pixels = sum(w * h for w, h in zip(rows["width"][:], rows["height"][:], strict=True))
    predict = pixels / (teacher["batch_size"] * teacher["crop_size"] ** 2) * step["distill"] * FORWARD * members
    seconds = {
        "teacher": train_teacher,
        "pseudo labels": predict,
        "student": train_student,
        "student of the labels alone": train_student,
        "ONNX": 0.0,
    }
    size = sum(file.stat().st_size for file in (out / "data").rglob("*") if file.is_file()) / 1e9
    return Estimate({name: value + OVERHEAD for name, value in seconds.items()}, 2 * size + MODELS_GB)


def settings_of(command: list[str]) -> dict[str, Any]:
    """The recipe's settings, and what the command's own flags say of the steps."""
    settings = read_yaml(recipe_file(command[command.index("--config") + 1]))
    if "--max-steps" in command:
        settings["max_steps"] = int(command[command.index("--max-steps") + 1])
    return settings


def seconds_of_a_step(folder: Path) -> float:
    training = read_json(folder / "metrics.json")["training"]
    return training["seconds"] / max(1, training["steps"])


def minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
