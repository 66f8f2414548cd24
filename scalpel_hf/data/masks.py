"""
Reads masks: decides which values are target, background, or to be ignored.

The meaning of values is decided once for a data set, from the values of all its masks, or given by the user. If the
values are ambiguous, an error asks the user to give it.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from scalpel_hf.modeling.frame_io import ImageLike

from .mask_pixels import COLOUR, Pixels, mask_pixels

BACKGROUND, TARGET = 0, 255
# Neither target nor background. It is below 128, for programs that threshold there, and isn't a value that masks with
# several classes use, such as 64 and 127.
IGNORED = 73
SHOWN = 8  # most values that a message lists
REMEDY = (
    "say which values are target with --mask-values (such as 255, or '>127' for gray edges), and with --ignore-value "
    "which are neither target nor background; in Python: `mask_values=MaskValues.stated([255], [128])`"
)


class MaskValuesError(ValueError):
    """The meaning of masks' values is ambiguous. The message lists the values and the remedy."""


@dataclass(frozen=True)
class MaskValues:
    """
    The meaning of masks' values. A colour's value is `COLOUR + 0xRRGGBB`.

    Args:
        target (`frozenset[float]`): values of target pixels.
        ignored (`frozenset[float]`): values of pixels to ignore, neither target nor background.
        above (`float`, *optional*): values above it are target; replaces `target`.
        rest (`bool`): whether all other values are background. Otherwise only 0 is, and other values are an error.
        indexed (`bool`): whether the values are indices into a palette of colours.
    """

    target: frozenset[float] = frozenset()
    ignored: frozenset[float] = frozenset()
    above: float | None = None
    rest: bool = False
    indexed: bool = False

    @classmethod
    def stated(
        cls, target: Iterable[float | str] | None, ignored: Iterable[float | str] | None = None
    ) -> "MaskValues | None":
        """
        From a user's input: values such as `255` or `"#ff0000"`, or a single `">127"`. All others are background.

        With `ignored` alone, `target` stays empty, and [`decide_mask_values`] finds it from the masks. Without both,
        the result is `None`. Raises `ValueError` if a text isn't a value, or a value is both target and ignored.

        Examples:
            >>> str(MaskValues.stated([255], [128]))
            '255 target, all others background, 128 neither'
        """
        texts, void = [str(v) for v in target or ()], frozenset(_parse_value(str(v)) for v in ignored or ())
        if not texts:
            return cls(ignored=void) if void else None
        if any(text.startswith(">") for text in texts):
            if len(texts) > 1:
                raise ValueError(f"a mask value such as {texts[0]!r} stands alone, here are {', '.join(texts)}")
            return cls(above=_parse_value(texts[0][1:]), ignored=void, rest=True)
        values = frozenset(map(_parse_value, texts))
        if both := values & void:
            raise ValueError(f"the mask values {_listed(both)} can't be both target and ignored")
        return cls(target=values, ignored=void, rest=True)

    def __str__(self) -> str:
        target = f"above {_listed([self.above])}" if self.above is not None else _listed(self.target)
        others = "all others" if self.rest else "0"
        place = " (places in the palette)" if self.indexed else ""
        ignored = f", {_listed(self.ignored)} neither" if self.ignored else ""
        return f"{target}{place} target, {others} background{ignored}"

    def explain(self, values: frozenset[float], indexed: bool) -> bool:
        """Whether a mask with these values (palette indices if `indexed`) can be read with this meaning."""
        return self.rest or not values or (indexed == self.indexed and values <= self.target | self.ignored)

    def read(self, pixels: "Pixels") -> np.ndarray:
        """
        Convert a mask's pixels to `BACKGROUND`, `IGNORED` and `TARGET`, uint8 `(H, W)`.

        Raises [`MaskValuesError`] for unknown values.
        """
        values = pixels.values if self.above is not None else pixels.exact()
        if not self.explain(_nonzero(values), pixels.indexed):
            raise MaskValuesError(f"its values are {_listed(np.unique(values))}, but here {self}: state --mask-values")
        target = values > self.above if self.above is not None else np.isin(values, list(self.target))
        mask = np.where(target, np.uint8(TARGET), np.uint8(BACKGROUND))
        mask[np.isin(values, list(self.ignored))] = IGNORED
        return mask


ZERO_AND_255 = MaskValues(target=frozenset([255]))
ZERO_AND_ONE = MaskValues(target=frozenset([1]))
PREPARED = MaskValues(target=frozenset([TARGET]), ignored=frozenset([IGNORED]))
VOC = MaskValues(target=frozenset([1]), ignored=frozenset([255]), indexed=True)
ABOVE_HALF = MaskValues(above=127, rest=True)

# A mask's name for messages, and a function that loads it.
MaskSource: TypeAlias = tuple[str, Callable[[], ImageLike | None]]


@dataclass(frozen=True)
class _Survey:
    """Summary of one mask: its values except 0, and half of the highest value that its dtype can hold."""

    name: str
    values: frozenset[float]
    half: float
    indexed: bool
    lossy: bool

    @classmethod
    def of(cls, name: str, pixels: Pixels) -> "_Survey":
        kind = pixels.values.dtype
        half = np.iinfo(kind).max / 2 if kind.kind in "iu" else np.inf
        return cls(name=name, values=_nonzero(pixels.exact()), half=half, indexed=pixels.indexed, lossy=pixels.lossy)


def read_mask(source: ImageLike, values: MaskValues | None = None) -> np.ndarray:
    """
    Read a mask: uint8 `(H, W)` of `BACKGROUND` (0), `TARGET` (255) and `IGNORED` (73, neither of both).

    Args:
        source: a path, `PIL.Image`, array or cell of a data set, see `read_frame`. Images with a palette of grays are
            converted to gray; for palettes with colours, as in Pascal VOC, the indices are the values. If all pixels
            have the same colour, the alpha channel is the mask.
        values: meaning of the values. By default it is decided from this mask alone, which may be of a prepared data
            set, or have values 0 and 1, 0 and one value above half of the range, or VOC's palette. JPEG files are
            thresholded at half.

    Raises:
        `OSError`, `ValueError`: if the file can't be read; [`MaskValuesError`] if its values are ambiguous.

    Examples:
        >>> read_mask(np.array([[0, 1], [1, 0]], dtype=np.uint8))
        array([[  0, 255],
               [255,   0]], dtype=uint8)
    """
    pixels = mask_pixels(source)
    return (values or _decide([_Survey.of("", pixels)], prepared=True)).read(pixels)


def read_truth(cell: Any, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """[`read_mask`] of a frame in another data set; `ValueError`, which names it, without a mask of its shape."""
    if cell is None:
        raise ValueError(f"the data set with the truth has no mask of {name}")
    mask = read_mask(cell)
    if mask.shape != shape:
        raise ValueError(f"{name}: the frame is {shape}, its mask in the data set with the truth {mask.shape}")
    return mask


def read_target(source: ImageLike) -> np.ndarray:
    """The target pixels of [`read_mask`], `(H, W)` bool."""
    return read_mask(source) == TARGET


def read_row_mask(row: Mapping[str, Any], column: str = "mask") -> np.ndarray:
    """
    [`read_mask`] for a row of a data set.

    Raises `ValueError`, which names the row, if the mask is missing, can't be read, or its size differs from the row's
    `width` and `height`.
    """
    name = row.get("name")
    if row[column] is None:
        raise ValueError(f"{name}: has no `{column}`")
    try:
        mask = read_mask(row[column])
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}, `{column}`: {error}") from error
    size = (row.get("height") or mask.shape[0], row.get("width") or mask.shape[1])
    if mask.shape != size:
        shown, frame = (f"{width} × {height}" for height, width in (mask.shape, size))
        raise ValueError(f"{name}: the frame has {frame} pixels, its mask {shown}")
    return mask


def decide_mask_values(
    masks: Sequence[MaskSource],
    stated: MaskValues | None = None,
    prepared: bool = False,
    say: Callable[[str], object] | None = None,
) -> MaskValues:
    """
    Decide the meaning of the values in a data set's masks.

    Without `stated`, it is the one that fits most masks, of: 0 and 255; 0 and 1; 0 and one other value above half of
    the dtype's range; black and one colour; VOC's palette with indices 1 and 255. Masks with other values are an error
    when they are read later.

    Args:
        masks: unreadable ones, and those that load as `None`, are skipped.
        stated: given by the user, or by the data set's layout.
        prepared: whether the masks may be those of a prepared data set, with `IGNORED`.
        say: called with a message about the decision. By default it is a warning, which is left out for 0 and 255, 0
            and 1, and `stated` values.

    Raises [`MaskValuesError`] if no meaning fits more than half of the masks, or no mask has a stated target value.
    """
    with ThreadPoolExecutor() as pool:
        surveys = [survey for survey in pool.map(_survey, masks) if survey is not None]
    if stated is not None and stated.rest:
        values = stated
        _check_stated(values, surveys)
    else:
        values = _decide(surveys, prepared, stated.ignored if stated else frozenset())
    if say is not None or (stated is None and values not in (ZERO_AND_255, ZERO_AND_ONE, PREPARED)):
        (say or warnings.warn)(_decision_message(values, surveys, stated is not None))
    return values


def _check_stated(values: MaskValues, surveys: Sequence[_Survey]) -> None:
    """Raise [`MaskValuesError`] if no mask has a pixel with a target value."""
    found = frozenset[float]().union(*(survey.values for survey in surveys))
    target = values.target if values.above is None else {value for value in found if value > values.above}
    if found and not target & (found | {0}):
        raise MaskValuesError(f"no mask has a target pixel with: {values}. Their values are {_listed({0.0} | found)}")


def _decision_message(values: MaskValues, surveys: Sequence[_Survey], stated: bool) -> str:
    """The message about the meaning that was decided."""
    line = f"{len(surveys)} masks, {'as stated' if stated else 'as their values say'}: {values}"
    if values.above is not None:
        line += f"; {sum(bool(s.values - {255}) for s in surveys)} masks hold other values than 0 and 255"
    if lossy := sum(survey.lossy for survey in surveys):
        line += f"; {lossy} are JPEG or the like, cut at half"
    return line


def _survey(mask: MaskSource) -> _Survey | None:
    """The summary of a mask; `None` if it is missing or can't be read."""
    name, give = mask
    try:
        source = give()
        return None if source is None else _Survey.of(name, mask_pixels(source))
    except (OSError, ValueError):
        return None  # the error is raised when the mask is read


def _decide(surveys: Sequence[_Survey], prepared: bool = False, ignored: frozenset[float] = frozenset()) -> MaskValues:
    """The meaning that fits most masks, and more than half of them; `ignored` values don't count."""
    filled = [replace(survey, values=survey.values - ignored) for survey in surveys if survey.values - ignored]
    single = {value for s in filled for value in s.values if len(s.values) == 1 and (value > s.half or value >= COLOUR)}
    candidates = [ZERO_AND_255, ZERO_AND_ONE, *([PREPARED] if prepared else []), VOC]
    candidates += [MaskValues(target=frozenset([value])) for value in sorted(single - {1, 255})]
    if ignored:
        candidates = [
            replace(c, target=c.target - ignored, ignored=c.ignored | ignored, indexed=indexed)
            for c in candidates
            for indexed in (False, True)
        ]
    explained = [sum(candidate.explain(s.values, s.indexed) for s in filled) for candidate in candidates]
    best = int(np.argmax(explained))
    if filled and 2 * explained[best] <= len(filled):
        raise MaskValuesError(_ambiguity_message(filled))
    return candidates[best]


def _ambiguity_message(surveys: Sequence[_Survey]) -> str:
    """The message that lists the masks' values and the remedy."""
    values = _listed({0.0}.union(*(survey.values for survey in surveys)))
    if len(surveys) == 1 and not surveys[0].name:
        return f"the meaning of its values {values} is ambiguous: {REMEDY}"
    examples = "; ".join(f"{survey.name}: {_listed({0.0} | survey.values)}" for survey in surveys[:3])
    return f"the meaning of the masks' values {values} is ambiguous ({examples}): {REMEDY}"


def _nonzero(values: np.ndarray) -> frozenset[float]:
    """The values in an array except 0; only the 1000 largest, as other images may be mistaken for masks."""
    if values.dtype == np.uint8:
        found = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    else:
        found = np.unique(values)
    return frozenset(found[found != 0][-1000:].tolist())


def _parse_value(text: str) -> float:
    """Read a mask value: a number, or a colour such as `#ff0000`. Raises `ValueError` for other texts."""
    try:
        if text.startswith("#") and len(text) == 7:
            red, green, blue = bytes.fromhex(text[1:])
            return red if red == green == blue else COLOUR + int(text[1:], 16)
        number = float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{text!r} isn't a mask value: give a number, a colour such as '#ff0000', or '>127'")
    return number


def _listed(values: Iterable[float]) -> str:
    """List values in increasing order, for messages."""
    listed = sorted(float(value) for value in values)
    texts = [f"#{int(v) - COLOUR:06x}" if v >= COLOUR and v < 2 * COLOUR else f"{v:g}" for v in listed]
    if len(texts) > SHOWN:
        texts = [*texts[: SHOWN - 1], f"… {texts[-1]} ({len(texts)} in all)"]
    return ", ".join(texts)
