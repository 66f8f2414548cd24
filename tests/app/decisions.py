"""What people have decided last."""

from pathlib import Path

from scalpel_hf.pseudo_labels.reviews import Decision, read_history


def read_decisions(folder: str | Path) -> dict[str, Decision]:
    """The last decision about each frame, by the frame's name; frames with `undo` last are left out."""
    return {name: past[-1] for name, past in read_history(folder).items()}
