"""The optional parts of this package, its extras: what each takes, and what to install where that is missing."""

import re
from importlib import metadata

FOR_DEVELOPERS = ("dev", "docs")
OF_AN_EXTRA = re.compile(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]")


def extras() -> dict[str, list[str]]:
    """The packages of each extra that is not for developers; none where this is imported without being installed."""
    found: dict[str, list[str]] = {}
    try:
        requirements = metadata.requires("scalpel-hf") or []
    except metadata.PackageNotFoundError:
        return found
    for package, extra in (match.groups() for match in map(OF_AN_EXTRA.match, requirements) if match):
        if extra not in FOR_DEVELOPERS:
            found.setdefault(extra, []).append(package)
    return dict(sorted(found.items()))


def missing() -> dict[str, list[str]]:
    """Of each extra the packages that aren't installed; of those without any nothing."""
    absent = {extra: [name for name in names if not is_installed(name)] for extra, names in extras().items()}
    return {extra: names for extra, names in absent.items() if names}


def is_installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def remedy(extra: str) -> str:
    return f'pip install "scalpel-hf[{extra}]"'


def extra_of(module: str | None) -> str | None:
    """An extra that a module comes with; `None` where it comes with none."""
    package = (module or "").partition(".")[0]
    return next((extra for extra, names in extras().items() if package in names), None)


def check_extra(extra: str, what: str) -> None:
    """Raise `ImportError` with the remedy where a package of an extra is missing, before work that needs it at its end.

    Args:
        what: needs it, for the message.
    """
    names = missing().get(extra)
    if names:
        raise ImportError(f"{what} needs {', '.join(names)}: {remedy(extra)}")
