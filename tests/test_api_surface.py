"""
What users build on, in `tests/api_surface.txt`: every public name of `scalpel_hf`, its arguments and their defaults.

A change of it is deliberate: `python -m tests.test_api_surface --write` renews the file, and `CHANGELOG.md` says what
changed for whom. Without `--write` it says what differs.
"""

import difflib
import enum
import inspect
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from pytest import TestReport

import scalpel_hf

SURFACE = Path(__file__).with_name("api_surface.txt")
RENEW = "python -m tests.test_api_surface --write"


def surface(package: Any = scalpel_hf) -> list[str]:
    """A line for each public name and one for each public method and property of a class, sorted."""
    return sorted(line for name in package.__all__ for line in describe(name, getattr(package, name)))


def describe(name: str, value: Any) -> Iterator[str]:
    if inspect.isclass(value):
        yield f"class {name}{arguments(value, inherited_arguments(value))}"
        for attribute in sorted(set(dir(value))):
            if not attribute.startswith(("_", "validate")) or attribute == "__call__":
                yield from describe_member(name, value, attribute)
    elif callable(value):
        yield f"def {name}{arguments(value)}"
    else:
        yield f"value {name}"


def describe_member(name: str, owner: type, attribute: str) -> Iterator[str]:
    """A line for what the project's own classes define; what they inherit from the libraries is those libraries'."""
    home = next((base for base in owner.__mro__ if attribute in vars(base)), None)
    if home is None or not home.__module__.startswith("scalpel_hf"):
        return
    member = inspect.getattr_static(owner, attribute)
    if isinstance(member, classmethod | staticmethod):
        yield f"def {name}.{attribute}{arguments(getattr(owner, attribute))}"
    elif isinstance(member, property):
        yield f"property {name}.{attribute}"
    elif inspect.isfunction(member):
        yield f"def {name}.{attribute}{arguments(member)}"


def inherited_arguments(owner: type) -> set[str]:
    """The arguments of a library's class that ours derives from: they differ from version to version."""
    libraries = [base for base in owner.__mro__ if base is not object and not base.__module__.startswith("scalpel_hf")]
    return {argument for base in libraries for argument in inspect.signature(base.__init__).parameters} - {
        "self",
        "config",
    }


def arguments(function: Any, left_out: Collection[str] = ()) -> str:
    """The arguments without annotations, which Python's versions print differently."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name not in left_out]
    bare = [p.replace(annotation=p.empty, default=shown(p.default)) for p in parameters]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def shown(default: Any) -> Any:
    """A default that prints the same in every process and on every machine."""
    if default is inspect.Parameter.empty or isinstance(default, bool | int | float | str | tuple | list | dict | None):
        return default
    if repr(default) == "<factory>":  # of a dataclass
        return Stated("<factory>")
    return Stated(default.name if isinstance(default, enum.Enum) else f"<{type(default).__name__}>")


class Stated(str):
    """A word that prints as it is, without quotes."""

    def __repr__(self) -> str:
        return str(self)


def difference() -> str:
    lines = difflib.unified_diff(
        SURFACE.read_text(encoding="utf-8").splitlines(), surface(), "written down", "now", n=0
    )
    return "\n".join(line for line in lines if not line.startswith("@@"))


def test_the_surface_is_as_written_down() -> None:
    changed = difference()
    assert not changed, (
        f"public names or arguments changed:\n{changed}\nIf you mean it: {RENEW}, and say it in CHANGELOG.md"
    )


class _Sample:
    """What `surface` has to see: arguments, defaults, methods, properties; and nothing private or inherited."""

    __all__ = ("Thing", "pi", "work")
    pi = 3

    class Thing(TestReport):
        __module__ = "scalpel_hf.sample"

        def __init__(self, a, nodeid=None, *, b: int = 2, where=Path("/data")):
            pass

        @classmethod
        def load(cls, name="x"):
            pass

        @property
        def size(self):
            pass

        def _private(self):
            pass

    @staticmethod
    def work(x: "int | None" = None, /, *more, **other) -> None:
        pass


def test_each_kind_of_change_shows() -> None:
    assert surface(_Sample) == [
        f"class Thing(a, *, b=2, where=<{type(Path()).__name__}>)",
        "def Thing.load(name='x')",
        "def work(x=None, /, *more, **other)",
        "property Thing.size",
        "value pi",
    ]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        SURFACE.write_text("\n".join(surface()) + "\n", encoding="utf-8")
    elif changed := difference():
        sys.exit(f"{changed}\nif you mean it: {RENEW}")
