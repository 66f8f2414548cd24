"""Finds the YAML files that come with the package: settings of the recipes, and of Accelerate."""

from pathlib import Path

import scalpel_hf

RECIPES = Path(scalpel_hf.__file__).parent / "recipes"
ACCELERATE = "accelerate_configs"


def recipe_file(name: str | Path, folder: str = "") -> Path:
    """
    The path of a YAML file, which is given by its path or, if it comes with the package, by its name.

    Args:
        name: a path, or a name such as `nuaa_sirst/distill_10pct`.
        folder: the folder in the package's recipes in which to look for the name, such as `ACCELERATE`.

    Raises `FileNotFoundError`, which lists the package's names, where there is no such file.
    """
    if Path(name).is_file():
        return Path(name)
    packaged = RECIPES / folder / Path(name).with_suffix(".yaml")
    if not Path(name).is_absolute() and packaged.is_file():
        return packaged
    if Path(name).exists():
        return Path(name)  # a folder or a device: reading it then raises an error that says so
    found = sorted(path.relative_to(RECIPES / folder) for path in (RECIPES / folder).rglob("*.yaml"))
    names = [path.with_suffix("").as_posix() for path in found if folder or path.parts[0] != ACCELERATE]
    raise FileNotFoundError(f"there is no file {str(name)!r}; the package has {', '.join(names)}")
