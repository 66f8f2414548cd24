"""The page of `scalpel-hf app` as a Space on the Hub."""

import json
import tempfile
from pathlib import Path

from huggingface_hub import HfApi, RepoCard, SpaceCardData

from . import upload
from .card_parts import PROJECT_TAGS
from .repo_names import is_hub_id

APP = """from scalpel_hf import load_predictor
from scalpel_hf.app.model_page import page

MODELS = {models}

page({{who: load_predictor(name) for who, name in MODELS.items()}}, title={title}).launch()
"""
REQUIREMENTS = "scalpel-hf[app,onnx,video]\n"
CARD = """# {title}

Small targets in infrared frames, found by {names}: drop a frame or a recording, move the threshold, see the operators'
maps. This page is `scalpel-hf app` of scalpel-hf. Files that you drop are uploaded to this Space; to keep them on your
machine, run

```bash
scalpel-hf app {first}
```
"""


def space_files(model: str, repo_id: str, teacher: str | None = None) -> dict[str, str]:
    """Content of a Space's files except README.md, by name; see [`push_space`]."""
    models = {"student": model, "teacher": teacher} if teacher else {"model": model}
    app = APP.format(models=json.dumps(models), title=json.dumps(repo_id.split("/")[-1]))
    return {"app.py": app, "requirements.txt": REQUIREMENTS}


def push_space(model: str, repo_id: str, teacher: str | None = None, private: bool | None = None) -> str:
    """
    Push a Space with the page of one model, or of a student and its teacher.

    The Space loads the models from the Hub when it starts. For private models it needs a token, as the secret
    `HF_TOKEN`.

    Args:
        model, teacher: Hub ids.
        repo_id: `org/name` of the Space; it is created if it doesn't exist.
        private: whether a new Space is private.

    Returns the commit's URL. Raises `ValueError` if a model is not on the Hub.
    """
    names = [name for name in (model, teacher) if name]
    _check_on_hub(upload.HfApi(), names, repo_id)
    title = repo_id.split("/")[-1]
    data = SpaceCardData(title=title, sdk="gradio", app_file="app.py", models=names, tags=PROJECT_TAGS, license="other")
    text = CARD.format(title=title, names=" and ".join(f"`{name}`" for name in names), first=model)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in space_files(model, repo_id, teacher).items():
            (Path(folder) / name).write_text(content, encoding="utf-8")
        card = RepoCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
        return upload.push_folder(folder, repo_id, card, repo_type="space", private=private)


def _check_on_hub(api: HfApi, names: list[str], repo_id: str) -> None:
    for name in names:
        if not is_hub_id(name):
            raise ValueError(
                f"a Space loads its models from the Hub, but {name!r} is not on the Hub: first `scalpel-hf push {name} "
                f"org/model`, then `scalpel-hf push org/model {repo_id} --space`"
            )
        if not any(api.file_exists(name, file) for file in ("adapter_config.json", "config.json")):
            raise ValueError(f"{name} holds no model on the Hub (no adapter_config.json or config.json)")
