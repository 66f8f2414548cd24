"""The optional parts of this package (extras): the packages that each needs, and how to install missing ones."""

import re
from importlib import metadata

TORCH_FOR_DETECTORS = (2, 13)
FOR_DEVELOPERS = ("dev", "docs")
OF_AN_EXTRA = re.compile(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]")


def extras() -> dict[str, list[str]]:
    """The packages of each extra, without those for developers; empty where this package isn't installed."""
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
    """The packages of each extra that aren't installed; extras that lack none are left out."""
    absent = {extra: [name for name in names if not is_installed(name)] for extra, names in extras().items()}
    return {extra: names for extra, names in absent.items() if names}


def is_installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def remedy(extra: str) -> str:
    """The command that installs an extra."""
    return f'pip install "scalpel-hf[{extra}]"'


def extra_of(module: str | None) -> str | None:
    """The extra that has the package of an imported module, such as `onnx.helper`; `None` where none has it."""
    package = (module or "").partition(".")[0]
    return next((extra for extra, names in extras().items() if package in names), None)


def check_detector_export() -> None:
    """Raise `ImportError` with the remedy if torch is too old to export a detector. For use before long work."""
    version = metadata.version("torch")
    if tuple(map(int, version.split(".")[:2])) < TORCH_FOR_DETECTORS:
        least = ".".join(map(str, TORCH_FOR_DETECTORS))
        raise ImportError(f"the export of a detector needs torch {least}, here is {version}: pip install -U torch")


def check_extra(extra: str, what: str) -> None:
    """
    Raise `ImportError` with the remedy if a package of an extra is missing. For use before long work that needs it.

    Args:
        what: the work, for the message.
    """
    names = missing().get(extra)
    if names:
        raise ImportError(f"{what} needs {', '.join(names)}: {remedy(extra)}")
