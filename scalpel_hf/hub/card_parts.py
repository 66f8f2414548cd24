"""Shared by model cards and data set cards: tags, picture, rendering of templates."""

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
    Render a card from its metadata and a template in this folder.

    Templates must pass text from people or files through `code(…)`, `escape(…)` or `json(…)`.

    Args:
        card: class of the card.
        template: file name.
        data: the card's metadata.
        picture: whether the card shows `PICTURE`.
        context: variables of the template.
    """
    path = str(Path(__file__).with_name(template))
    shown = PICTURE if picture else None
    return card.from_template(data, path, code=code, escape=escape, json=json.dumps, picture=shown, **context)
