"""What the cards of models and data sets have in common: their tags, their picture, and how a template becomes one."""

import json
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import DatasetCard, ModelCard

from scalpel_hf.utils.markdown import code, escape

PROJECT_TAGS = ["scalpel-hf", "infrared", "infrared-small-target-detection"]
PICTURE = "examples.png"

Card = TypeVar("Card", ModelCard, DatasetCard)


def render(card: type[Card], template: str, data: Any, picture: bool, **context: Any) -> Card:
    """
    A card of its front matter and a template beside this file.

    Templates write whatever a person or a file gave as `code(…)`, `escape(…)` or `json(…)`.

    Args:
        picture: whether the picture grid goes along.
        context: the template's variables.
    """
    path = str(Path(__file__).with_name(template))
    shown = PICTURE if picture else None
    return card.from_template(data, path, code=code, escape=escape, json=json.dumps, picture=shown, **context)
