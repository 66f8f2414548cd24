"""The code that travels with a model: complete, and needing nothing that its user may not have."""

import ast
import json
import sys
from pathlib import Path

import pytest

from scalpel_hf.modeling.custom_code import MODELS, MODULES, PROCESSORS, code_files, with_auto_map

ALLOWED = {"torch", "transformers", "numpy", "PIL", "huggingface_hub"}
FILES = sorted(MODULES.glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_needs_torch_and_transformers_and_its_neighbours_alone(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and (MODULES / f"{node.module}.py").is_file(), ast.unparse(node)
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            assert name.split(".")[0] in ALLOWED | sys.stdlib_module_names, ast.unparse(node)


@pytest.mark.parametrize("reference", sorted({r for m in (*MODELS.values(), *PROCESSORS.values()) for r in m.values()}))
def test_every_class_is_where_the_map_says(reference: str) -> None:
    module, name = reference.split(".")
    tree = ast.parse((MODULES / f"{module}.py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


@pytest.mark.parametrize("model_type", MODELS)
def test_the_files_of_a_model_are_closed_under_import(model_type: str) -> None:
    files = {file.stem for file in code_files([with_auto_map({"model_type": model_type})])}
    assert {reference.split(".")[0] for reference in MODELS[model_type].values()} <= files
    for name in files:
        for node in ast.walk(ast.parse((MODULES / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in files, f"{name} imports {node.module}"


def test_every_model_type_and_processor_has_its_map() -> None:
    import transformers  # noqa: F401 - registration waits for it
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    import scalpel_hf  # noqa: F401

    own = {n for n, c in CONFIG_MAPPING._extra_content.items() if c.__module__.startswith("scalpel_hf.")}
    assert own == set(MODELS)


def test_configurations_of_others_stay_as_they_are() -> None:
    other = {"model_type": "segformer", "depths": [1]}
    assert with_auto_map(other) == other and code_files([other]) == []
    nested = {
        "processor_class": "ScalpelSamProcessor",
        "image_processor": {"image_processor_type": "SamImageProcessor"},
    }
    assert "auto_map" not in with_auto_map(nested)["image_processor"] and "auto_map" in with_auto_map(nested)
    before = json.dumps(nested)
    with_auto_map(nested)
    assert json.dumps(nested) == before
