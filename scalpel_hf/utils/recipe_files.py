"""The YAML files that come with the package: settings of the recipes, and of Accelerate."""

from pathlib import Path

import scalpel_hf

RECIPES = Path(scalpel_hf.__file__).parent / "recipes"
ACCELERATE = "accelerate_configs"


def recipe_file(name: str | Path, folder: str = "") -> Path:
    """
    A YAML file by its path, or one that comes with the package by its name, as `nuaa_sirst/distill_10pct`.

    Args:
        folder: within the package's recipes, where the name is looked up; those of Accelerate have one of their own.

    Raises:
        `FileNotFoundError`, which lists the names that there are.
    """
    if Path(name).is_file():
        return Path(name)
    packaged = RECIPES / folder / Path(name).with_suffix(".yaml")
    if not Path(name).is_absolute() and packaged.is_file():
        return packaged
    if Path(name).exists():
        return Path(name)  # a folder or a device: whoever reads it says so
    found = sorted(path.relative_to(RECIPES / folder) for path in (RECIPES / folder).rglob("*.yaml"))
    names = [path.with_suffix("").as_posix() for path in found if folder or path.parts[0] != ACCELERATE]
    raise FileNotFoundError(f"there is no file {str(name)!r}; the package has {', '.join(names)}")
