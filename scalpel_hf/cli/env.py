"""Print the versions of all libraries, the device, and which optional parts are missing: for bug reports.

Examples:

    scalpel-hf env
    scalpel-hf env --json
"""

import json
import os
import platform
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from scalpel_hf.utils.extras import missing, remedy

from .program import verb_parser


def environment() -> dict[str, Any]:
    """Versions of all libraries, the device, and the missing packages of each optional part (extra)."""
    import torch

    requirements = [Requirement(text) for text in metadata.requires("scalpel-hf") or []]
    needed = [r.name for r in requirements if r.marker is None]
    return {
        "scalpel-hf": metadata.version("scalpel-hf"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version_of(name) for name in needed},
        "device": device(),
        "threads": torch.get_num_threads(),
        "cpu": f"{os.cpu_count()} CPUs, {torch.backends.cpu.get_cpu_capability()}",
        "missing": missing(),
    }


def version_of(name: str) -> str | None:
    """A distribution's version; `None` where it isn't installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def device() -> str:
    """The devices that torch can use on this machine, in words."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{p.name} ({p.total_memory / 1e9:.0f} GB)" for p in names)
    return "Apple MPS" if torch.backends.mps.is_available() else "CPU"


def as_text(found: dict[str, Any]) -> str:
    lines = [f"{key}: {found[key]}" for key in ("scalpel-hf", "python", "platform", "device", "cpu", "threads")]
    lines += [f"{name}: {version or 'missing'}" for name, version in found["packages"].items()]
    for extra, names in found["missing"].items():
        lines.append(f"without {', '.join(names)}: {remedy(extra)}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("env", __doc__)
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(argv)
    found = environment()
    print(json.dumps(found, indent=2) if args.json else as_text(found))
