"""How a recipe declares its fields, and how they are read from YAML and flags; `recipe_arguments.py` has the fields."""

import sys
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, get_args, get_origin

from transformers import HfArgumentParser

from scalpel_hf.utils.flags import with_hyphens
from scalpel_hf.utils.reading import read_yaml
from scalpel_hf.utils.recipe_files import recipe_file


def option(default: Any, help: str, any_on_resume: bool = False, in_help: bool = True) -> Any:
    """
    A dataclass field with its help text.

    Args:
        default: of the field; a list or dict is copied.
        help: shown by `--help`.
        any_on_resume: whether a run may be resumed with another value, because the result doesn't depend on it, or, as
            of a data set's name, because hashes of its content are compared.
        in_help: whether `--help` shows the field. Fields for ablations are hidden, but YAML and flags accept them.
    """
    metadata = {"help": help, "any_on_resume": any_on_resume, "in_help": in_help}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def decide_the_result(args: Any) -> dict[str, Any]:
    """The settings that the result depends on: a run can only be resumed with the same values."""
    return {f.name: getattr(args, f.name) for f in fields(args) if not f.metadata.get("any_on_resume")}


@dataclass(frozen=True)
class Between:
    """The allowed range of a field; every field with a number has one."""

    low: float
    high: float

    def check(self, name: str, value: float) -> None:
        if not self.low <= value <= self.high:  # true for NaN too
            raise ValueError(f"`{name}` must be between {self.low:g} and {self.high:g}, got {value}")


class OneOf(tuple[str, ...]):
    """The allowed values of a text field."""

    def check(self, name: str, value: str) -> None:
        if value not in self:
            raise ValueError(f"`{name}` must be one of {', '.join(self)}, got {value!r}")


TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}

Args = TypeVar("Args")


class Help(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """Help that shows defaults and keeps the description's line breaks."""


class RecipeParser(HfArgumentParser):
    """Makes flags of a dataclass's fields: help shows them with hyphens; underscores, as in YAML, work too."""

    def add_argument(self, *names: str, any_on_resume: bool = False, in_help: bool = True, **settings: Any) -> Action:
        if not in_help:
            settings["help"] = SUPPRESS
        return super().add_argument(*(name for name in names if "_" not in name), **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args([with_hyphens(argument) for argument in args], namespace)


def parse_arguments(cls: type[Args], verb: str, description: str | None, argv: list[str] | None = None) -> Args:
    """
    Read `--config FILE.yaml`, and flags that override it, into a dataclass.

    Args:
        cls: the dataclass, with fields made by [`option`].
        verb: the command is `scalpel-hf VERB`.
        description: shown by `--help` before the flags.
        argv: the command's arguments; by default those of this process.

    Raises `SystemExit` with a message if a field is unknown (it lists all fields) or a value has the wrong type or is
    out of range.
    """
    argv = sys.argv[1:] if argv is None else argv
    usage = f"scalpel-hf {verb} [--config FILE.yaml] [--field value ...]"
    parser = RecipeParser(cls, prog=f"scalpel-hf {verb}", usage=usage, description=description, formatter_class=Help)
    about = "YAML file with any of the fields below, or the package's recipe of that name: nuaa_sirst/distill_10pct."
    parser.add_argument("--config", help=about)
    values = _read_yaml(parser, cls, parser.parse_known_args(argv)[0].config)
    parser.set_defaults(**values)
    namespace = parser.parse_args(argv)
    try:
        return cls(**{f.name: getattr(namespace, f.name) for f in fields(cls)})  # type: ignore[arg-type]
    except ValueError as error:
        sys.exit(f"error: {error}")


def _read_yaml(parser: HfArgumentParser, cls: type, name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    try:
        path = recipe_file(name)
        values = read_yaml(path)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    known = {f.name: f for f in fields(cls)}
    wrong = sorted(str(name) for name in set(values) - set(known))
    if wrong:
        parser.error(f"{path}: unknown fields {', '.join(wrong)}; the fields are {', '.join(sorted(known))}")
    for name, value in values.items():
        try:
            values[name] = _checked(value, known[name].type)
        except TypeError as error:
            parser.error(f"{path}: `{name}` must be {error}, got {value!r}")
    return values


def _checked(value: Any, expected: Any) -> Any:
    """A YAML value converted to a field's type; `TypeError` with the type's description if it doesn't fit."""
    if get_origin(expected) is list:
        if not isinstance(value, list):
            raise TypeError("a list")
        return [_checked(item, get_args(expected)[0]) for item in value]
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        # An int above 1e300 is above every field's range, but may be too large for a float.
        return value if abs(value) > 1e300 else float(value)
    if not isinstance(value, expected) or (expected is not bool and isinstance(value, bool)):
        raise TypeError(TYPE_NAMES[expected])
    return value
