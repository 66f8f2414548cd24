"""The names of frames: each must have one of its own, and lists that name them otherwise are told which is meant."""

from collections import Counter
from collections.abc import Sequence


def check_names(names: Sequence[object], where: str) -> None:
    """Raise `ValueError` where frames have no name, one that isn't text, or one that occurs twice, in `where`."""
    if nameless := [place for place, name in enumerate(names) if not isinstance(name, str) or not name.strip()]:
        raise ValueError(f"rows without a name in {where}: {few(nameless)}; give each a text of its own in `name`")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"names occur more than once in {where}: {few(repeated)}; label budgets and pseudo labels need one name "
            "for each image"
        )


def few(names: Sequence[object], limit: int = 10) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + more
