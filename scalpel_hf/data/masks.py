"""
What the values of masks mean, and masks read by it: the one place where pixels become target, background or neither.

What they mean is decided once for a whole data set, from the values of all its masks, or stated by whoever knows. Where
it would be a guess, it is refused.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from scalpel_hf.modeling.normalization import ImageLike

from .mask_pixels import COLOUR, Pixels, mask_pixels

BACKGROUND, TARGET = 0, 255
IGNORED = (
    73  # neither target nor background. Below half for who cuts at half; no class's share of 255, as 64 and 127 are
)
SHOWN = 8  # values or masks that a message lists
REMEDY = (
    "say which values are target with --mask-values (such as 255, or '>127' for gray edges), and with --ignore-value "
    "which are neither target nor background; in Python: `mask_values=MaskValues.stated([255], [128])`"
)


class MaskValuesError(ValueError):
    """Masks of which nobody can know what their values mean; the message lists the values and the remedy."""


@dataclass(frozen=True)
class MaskValues:
    """
    What the values of masks mean. A colour counts as the number `COLOUR + 0xRRGGBB`.

    Args:
        target (`frozenset[float]`): the values of target pixels.
        ignored (`frozenset[float]`): those of pixels that are neither target nor background.
        above (`float`, *optional*): what exceeds it is target, instead of `target`.
        rest (`bool`): whether all other values are background. If not, only 0 is, and another one is an error.
        indexed (`bool`): whether the values are places in a palette of colours.
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
        As a person states it: values such as `255`, `"#ff0000"` or one `">127"`; all others are background.

        With `ignored` alone, `target` of what comes back is empty: [`decide_mask_values`] finds it from the other
        values. `None` if nothing is stated. Raises `ValueError` for something that is not a value, or is stated twice.
        """
        texts, void = [str(v) for v in target or ()], frozenset(_number(str(v)) for v in ignored or ())
        if not texts:
            return cls(ignored=void) if void else None
        if any(text.startswith(">") for text in texts):
            if len(texts) > 1:
                raise ValueError(f"a mask value such as {texts[0]!r} stands alone, here are {', '.join(texts)}")
            return cls(above=_number(texts[0][1:]), ignored=void, rest=True)
        values = frozenset(map(_number, texts))
        if both := values & void:
            raise ValueError(f"the mask values {_shown(both)} can't be both target and ignored")
        return cls(target=values, ignored=void, rest=True)

    def __str__(self) -> str:
        target = f"above {_shown([self.above])}" if self.above is not None else _shown(self.target)
        others = "all others" if self.rest else "0"
        place = " (places in the palette)" if self.indexed else ""
        ignored = f", {_shown(self.ignored)} neither" if self.ignored else ""
        return f"{target}{place} target, {others} background{ignored}"

    def explain(self, values: frozenset[float], indexed: bool) -> bool:
        """Whether a mask with such values, those of palette places where `indexed`, can be read so."""
        return self.rest or not values or (indexed == self.indexed and values <= self.target | self.ignored)

    def read(self, pixels: "Pixels") -> np.ndarray:
        """
        A mask's pixels as uint8 `(H, W)` of `BACKGROUND`, `IGNORED` and `TARGET`.

        Raises [`MaskValuesError`] for values of which nothing is known.
        """
        values = pixels.values if self.above is not None else pixels.exact()
        if not self.explain(_nonzero(values), pixels.indexed):
            raise MaskValuesError(f"its values are {_shown(np.unique(values))}, but here {self}: state --mask-values")
        target = values > self.above if self.above is not None else np.isin(values, list(self.target))
        mask = np.where(target, np.uint8(TARGET), np.uint8(BACKGROUND))
        mask[np.isin(values, list(self.ignored))] = IGNORED
        return mask


ZERO_AND_255 = MaskValues(target=frozenset([255]))
ZERO_AND_ONE = MaskValues(target=frozenset([1]))
PREPARED = MaskValues(target=frozenset([TARGET]), ignored=frozenset([IGNORED]))
VOC = MaskValues(target=frozenset([1]), ignored=frozenset([255]), indexed=True)
ABOVE_HALF = MaskValues(above=127, rest=True)

MaskSource: TypeAlias = tuple[str, Callable[[], ImageLike | None]]  # a mask's name in messages, and what gives it


@dataclass(frozen=True)
class _Survey:
    """What one mask holds: its values but 0, and half of the most that its type can hold."""

    name: str
    values: frozenset[float]
    half: float
    indexed: bool
    lossy: bool

    @classmethod
    def of(cls, name: str, pixels: Pixels) -> "_Survey":
        kind = pixels.values.dtype
        half = np.iinfo(kind).max / 2 if kind.kind in "iu" else np.inf
        return cls(name, _nonzero(pixels.exact()), half, pixels.indexed, pixels.lossy)


def read_mask(source: ImageLike, values: MaskValues | None = None) -> np.ndarray:
    """
    A mask `(H, W)`, uint8, of `BACKGROUND` (0), `TARGET` (255) and, for what is neither, `IGNORED` (73).

    Args:
        source: whatever `read_frame` reads. Palettes of grays are looked up; of palettes with colours, as Pascal VOC
            has them, the places count. Where all pixels have one colour, alpha is the mask.
        values: what the values mean. By default this mask alone says it: those of prepared data sets, 0 and 1, 0 and
            another value above half, VOC's palette. JPEG is cut at half.

    Raises:
        `OSError` and `ValueError`: as `read_frame` does; [`MaskValuesError`] where its values could mean more than one
            thing.
    """
    pixels = mask_pixels(source)
    return (values or _decide([_Survey.of("", pixels)], prepared=True)).read(pixels)


def read_target(source: ImageLike) -> np.ndarray:
    """Where [`read_mask`] finds target, `(H, W)` bool."""
    return read_mask(source) == TARGET


def read_row_mask(row: Mapping[str, Any], column: str = "mask") -> np.ndarray:
    """
    What [`read_mask`] reads of a row's mask.

    Raises `ValueError` naming the row where it has none, or one that can't be read or is of another size than the row
    says.
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
    What the values of a data set's masks mean: what most masks agree on, if it can mean but one thing.

    That is: 255 beside 0; 1 beside 0; one other value above half of what the type holds; one colour on black; VOC's
    palette with 1 and 255. A mask with other values is then an error when it is read.

    Args:
        masks: those that can't be read are passed over, and `None`.
        stated: what a person says, or the data set's layout.
        prepared: whether the masks may be a prepared data set's, with `IGNORED`.
        say: gets a line that says what was decided; by default a warning, unless it is the usual or was stated.

    Raises [`MaskValuesError`] where most masks have several values, or where what is stated as target occurs in none.
    """
    with ThreadPoolExecutor() as pool:
        surveys = [survey for survey in pool.map(_survey, masks) if survey is not None]
    if stated is not None and stated.rest:
        values = stated
        _check_stated(values, surveys)
    else:
        values = _decide(surveys, prepared, stated.ignored if stated else frozenset())
    if say is not None or (stated is None and values not in (ZERO_AND_255, ZERO_AND_ONE, PREPARED)):
        (say or warnings.warn)(_decision(values, surveys, stated is not None))
    return values


def _check_stated(values: MaskValues, surveys: Sequence[_Survey]) -> None:
    found = frozenset[float]().union(*(survey.values for survey in surveys))
    target = values.target if values.above is None else {value for value in found if value > values.above}
    if found and not target & (found | {0}):
        raise MaskValuesError(f"no mask has a target pixel with: {values}. Their values are {_shown({0.0} | found)}")


def _decision(values: MaskValues, surveys: Sequence[_Survey], stated: bool) -> str:
    line = f"{len(surveys)} masks, {'as stated' if stated else 'as their values say'}: {values}"
    if values.above is not None:
        line += f"; {sum(bool(s.values - {255}) for s in surveys)} masks hold other values than 0 and 255"
    if lossy := sum(survey.lossy for survey in surveys):
        line += f"; {lossy} are JPEG or the like, cut at half"
    return line


def _survey(mask: MaskSource) -> _Survey | None:
    name, give = mask
    try:
        source = give()
        return None if source is None else _Survey.of(name, mask_pixels(source))
    except (OSError, ValueError):
        return None  # whoever reads it says what is wrong


def _decide(surveys: Sequence[_Survey], prepared: bool = False, ignored: frozenset[float] = frozenset()) -> MaskValues:
    """The meaning that explains most masks, more than half of them, values that are `ignored` left aside."""
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
        raise MaskValuesError(_many_meanings(filled))
    return candidates[best]


def _many_meanings(surveys: Sequence[_Survey]) -> str:
    values = _shown({0.0}.union(*(survey.values for survey in surveys)))
    if len(surveys) == 1 and not surveys[0].name:
        return f"what its values {values} mean would be a guess: {REMEDY}"
    examples = "; ".join(f"{survey.name}: {_shown({0.0} | survey.values)}" for survey in surveys[:3])
    return f"what the masks' values {values} mean would be a guess ({examples}): {REMEDY}"


def _nonzero(values: np.ndarray) -> frozenset[float]:
    if values.dtype == np.uint8:
        found = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    else:
        found = np.unique(values)
    return frozenset(found[found != 0][-1000:].tolist())


def _number(text: str) -> float:
    try:
        if text.startswith("#") and len(text) == 7:
            red, green, blue = bytes.fromhex(text[1:])
            return red if red == green == blue else COLOUR + int(text[1:], 16)
        number = float(text)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"{text!r} is no value of a mask: a number, a colour such as '#ff0000', or '>127'")
    return number


def _shown(values: Iterable[float]) -> str:
    listed = sorted(float(value) for value in values)
    texts = [f"#{int(v) - COLOUR:06x}" if v >= COLOUR and v < 2 * COLOUR else f"{v:g}" for v in listed]
    if len(texts) > SHOWN:
        texts = [*texts[: SHOWN - 1], f"… {texts[-1]} ({len(texts)} in all)"]
    return ", ".join(texts)
