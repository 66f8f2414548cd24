"""Names of frames: checks that they are unique, and finds names that are spelt differently in lists."""

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from scalpel_hf.modeling.frame_io import IMAGE_SUFFIXES

# Label Studio's, before the name of a file that was uploaded. A date, such as 20240501-, is part of a name.
UPLOAD_PREFIX = re.compile(r"^(?!(?:19|20)\d\d[01]\d[0-3]\d-)[0-9a-f]{8}-")
LARGEST_SEARCH = 20_000  # most names to search for the most similar one
SEARCHES = 20  # most searches for a similar name: a list of another data set may have thousands of unknown names


class UnknownNameError(ValueError):
    """No frame has this name, or several may be meant. The message has the most similar name."""


class FrameNames:
    """
    Finds frames by names as other programs spell them: with a file's suffix, folders, backslashes, in another Unicode
    normal form, or with Label Studio's prefix for uploads.

    Args:
        names: of the frames.

    Examples:
        >>> FrameNames(["f0", "f1"]).find("images/f1.png")
        'f1'
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)
        self._exact = set(self.names)
        self._searches = 0
        self._spelt: dict[str, set[str]] = {}
        for name in self.names:
            for key in {_normal(name), _normal(name).rpartition("/")[2]}:
                self._spelt.setdefault(key, set()).add(name)

    def find(self, given: str) -> str:
        """The name of the frame that `given` means. Raises [`UnknownNameError`] if there is none, or several."""
        found = self._candidates(given)
        if len(found) == 1:
            return next(iter(found))
        if found:
            raise UnknownNameError(f"{given!r} may be {few(sorted(found))}: write one of them in full")
        tried = _spellings(given)
        also = f" (tried {', '.join(tried)})" if tried != [given] else ""
        raise UnknownNameError(f"the data set has no frame {given!r}{also}{self._nearest(tried[-1])}")

    def get(self, given: str) -> str | None:
        """Like `find`, but `None` if there is none, or several."""
        found = self._candidates(given)
        return next(iter(found)) if len(found) == 1 else None

    def _candidates(self, given: str) -> set[str]:
        """All names that `given` may mean."""
        if given in self._exact:
            return {given}
        return next((self._spelt[spelling] for spelling in _spellings(given) if spelling in self._spelt), set())

    def _nearest(self, given: str) -> str:
        """The end of the message: the most similar name, if there is one."""
        self._searches += 1
        near = difflib.get_close_matches(given, self.names[:LARGEST_SEARCH], 1) if self._searches <= SEARCHES else []
        return f"; the nearest is {near[0]!r}" if near else ""


def _normal(name: str) -> str:
    """The name in Unicode normal form C, with `/` between folders."""
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def _spellings(given: str) -> list[str]:
    """Possible names of the frame that `given` means, the most likely first."""
    whole = _normal(given.strip()).removeprefix("./")
    plain = str(PurePosixPath(whole).with_suffix("")) if whole.lower().endswith(IMAGE_SUFFIXES) else whole
    last = plain.rpartition("/")[2]
    parts = plain.split("/")
    joined = ["_".join(parts[start:]) for start in range(len(parts) - 1)]  # as `frame_name` has a file in a sub-folder
    return list(dict.fromkeys([whole, plain, *joined, whole.rpartition("/")[2], last, UPLOAD_PREFIX.sub("", last)]))


def check_names(names: Sequence[object], where: str) -> None:
    """Raise `ValueError` if a name is missing, isn't text, or occurs twice; `where` is for the message."""
    if nameless := [place for place, name in enumerate(names) if not isinstance(name, str) or not name.strip()]:
        raise ValueError(f"rows without a name in {where}: {few(nameless)}; give each a different text in `name`")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"names occur more than once in {where}: {few(repeated)}; label budgets and pseudo labels need one name "
            "for each image"
        )


def few(names: Sequence[object], limit: int = 10) -> str:
    """The first names of a list and the number of the others, for messages."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + more
