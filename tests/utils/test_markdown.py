"""What data says is shown as it is, by a reader of CommonMark with GitHub's tables, and does nothing else."""

import json
import re
import shlex
from pathlib import Path

import datasets
import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalpel_hf import apply_label_budget
from scalpel_hf.hub.dataset_card import dataset_card
from scalpel_hf.hub.model_card import student_card
from scalpel_hf.hub.provenance import Provenance
from scalpel_hf.pseudo_labels import label_in_shards
from scalpel_hf.pseudo_labels.report import write_report
from scalpel_hf.utils.markdown import code, escape
from scalpel_hf.utils.templates import html_template, markdown_template
from tests.pseudo_labels.helpers import FakeTeacher, camera, with_image

markdown_it = pytest.importorskip("markdown_it")

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "a\n\n# heading\n",
    "# heading",
    "- list",
    "1. list",
    "2) list",
    "=====",
    "---",
    "> quote",
    "[x](javascript:alert(1))",
    "![x](http://example.org/x.png)",
    "a | b",
    "`code` and ``more``",
    "*a* _b_ __c__ ~~d~~",
    "&lt;b&gt; &amp;",
    "\\<b>\\",
    "$x$",
    "<!-- ",
    "```\n<b>\n```",
    "|---|",
    "https://example.org www.x",
    "[1]: /url",
)


def shown(text: str) -> tuple[str, set[str]]:
    """The words of a Markdown text as a browser shows them, and the kinds of its parts."""
    words, kinds = "", set()
    for block in markdown_it.MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(text):
        kinds.add(block.type)
        for part in block.children or ():
            kinds.add(part.type)
            words += part.content
    return words, kinds


PARAGRAPH = {"paragraph_open", "inline", "text", "paragraph_close", "text_special"}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_words(name: str) -> None:
    line = " ".join(name.split())
    assert shown(escape(name)) == (line, shown(escape(name))[1]) and shown(escape(name))[1] <= PARAGRAPH
    words, kinds = shown(f"by {code(name)}.")
    assert words == f"by {line}." and kinds <= PARAGRAPH | {"code_inline"}
    words, kinds = shown(f"| a | b |\n|---|---|\n| {escape(name)} | c |\n")
    assert words == f"ab{line}c" and "tr_open" in kinds and not kinds & {"html_inline", "link_open", "image"}


@given(st.text(max_size=30))
def test_any_text(text: str) -> None:
    line = "".join(c if c.isprintable() else "�" for c in " ".join(text.split()))
    words, kinds = shown(escape(text))
    assert words == line and kinds <= PARAGRAPH
    assert shown(f"x {code(text)}")[0] == f"x {line or ' '}"
    escape(text).encode(), code(text).encode()


@pytest.mark.parametrize("name", ["synthetic-000001", "Misc_104", "a.b (2)", "Straße 7", "f-0"])
def test_ordinary_names_stay(name: str) -> None:
    assert escape(name) == name and code(name) == f"`{name}`"


def test_what_no_file_takes() -> None:
    assert escape("a\ud800\x00\u202eb") == "a���b"
    assert not re.search(r"[\ud800-\udfff]", code("\udc80"))


def test_names_in_reports_and_cards_are_words(tmp_path: Path) -> None:
    names = [f"{name} {index}" for index, name in enumerate(HOSTILE)]
    rows = with_image(camera().to_dataset(len(names)), 0, b"no image")
    rows = apply_label_budget(rows.remove_columns("name").add_column("name", names), 0.1)
    name, revision = "# <b>teacher</b> `", "a\n\n# b"
    labelled = label_in_shards(
        rows, FakeTeacher(), tmp_path / "out", name=name, revision=revision, skip_broken=True, report=lambda _: None
    )
    write_report(tmp_path / "out", labelled, cases=len(names))
    whole = datasets.DatasetDict({"train": labelled.select(range(1, len(names)))})
    report = (tmp_path / "out" / "report" / "README.md").read_text(encoding="utf-8")
    for text in (report, dataset_card(whole, "org/labels", license="<mit>").text):
        words, kinds = shown(text)
        assert not kinds & {"html_inline", "html_block", "link_open", "s_open", "em_open", "strong_open"}
        assert "<b>teacher</b>" in words and "a # b" in words
    found = [name for name, source in zip(names, labelled["label_source"], strict=True) if source != "human"]
    words = shown(report)[0]
    assert found and all(" ".join(name.split()) in words for name in found)


@pytest.mark.parametrize("name", [*HOSTILE, "{{ name }} {% if %}", "{# x #}"])
def test_what_a_run_says_are_words_in_a_models_card(name: str, tmp_path: Path) -> None:
    metrics = {"iou": 0.5, "niou": 0.4, "pd": 0.9, "fa": 3.0, "f1": None, "threshold": 0.5, "distance": 3.0}
    record = {
        "arguments": {"dataset": name, "train_split": name, "pseudo_labels": name, "seed": 0},
        "training": {"steps": 3, "seconds": 1.0},
        "machine": {"packages": {name: name}},
        "command": shlex.join(["scalpel-hf", "transfer", name]),
        "metrics": {name: metrics},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(record))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "scalpel_student"}))
    card = student_card(tmp_path, "org/student", Provenance(dataset_revision=name))
    words, kinds = shown(card.text)
    assert not kinds & {"html_inline", "html_block", "link_open", "s_open", "em_open", "strong_open"}
    assert card.text.count("\n# ") == 1 and "50.00" in words and words.count(" ".join(name.split())) >= 5


def test_a_template_escapes_text_and_leaves_numbers() -> None:
    template = markdown_template(
        "{{ name }} {{ name|code }} {{ share|number('+.1f') }} {{ 1.5 }}\n{% if name %}\nx\n{% endif %}\n"
    )
    text = template.render(name="<b>*x*", share=-0.25)
    assert text == f"{escape('<b>*x*')} {code('<b>*x*')} -0.2 1.5\nx\n"
    assert markdown_template("{{ once }}").render(once=escape("<i>")) == escape("<i>")
    with pytest.raises(jinja2.UndefinedError):
        template.render(share=1.0)
    assert html_template("<p>{{ name }}</p>").render(name="<b>") == "<p>&lt;b&gt;</p>"
