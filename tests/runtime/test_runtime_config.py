import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")
from scalpel_hf.runtime import OnnxStudent, load_exported
from tests.runtime.made_by_hand import write_config, write_student

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        *(({"threshold": value}, "`threshold` is between 0 and 1") for value in (NAN, 7, -1, 0, 1, "0.5", None, True)),
        ({"threshold": float("inf")}, "`threshold`"),
        ({"normalization": "minmax"}, "`normalization` is one of zscore"),
        ({"normalization": ["zscore"]}, "`normalization`"),
        *(({"percentiles": value}, "`percentiles`") for value in ([99, 1], [1], [1, 2, 3], [-1, 99], [1, 101], "1,99")),
        ({"percentiles": [1, NAN]}, "`percentiles`"),
        ({"percentiles": {"1": 99}}, "`percentiles`"),
        ({"normalization_inside": 1}, "`normalization_inside` is true or false"),
        ({"threshold_inside": "no"}, "`threshold_inside` is true or false"),
        ({"exact_tiles": "yes"}, "`exact_tiles` is true or false"),
        ({"opset": 0}, "`opset`"),
        ({"opset": 18.0}, "`opset`"),
        ({"id2label": ["background"]}, "`id2label`"),
        ({"id2label": {"0": 1}}, "`id2label`"),
        ({"task": "classification"}, "`task` is one of segmentation, detection"),
        ({"files": ["model.onnx"]}, "`files`"),
        ({"files": {"../model.onnx": "0"}}, "`files`"),
        ({"files": {"..\\model.onnx": "0"}}, "`files`"),
        ({"weights": 3}, "`weights` is text"),
        ({"stride": 8}, "stride"),
    ],
)
def test_values_that_cannot_be_name_file_field_and_remedy(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    write_config(write_student(tmp_path), **values)
    with pytest.raises(ValueError, match=rf"runtime\.json is no configuration.*{message}.*export the student again"):
        OnnxStudent.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "{}", "[" * 100_000, '{"threshold": 0.5}', "\x00"])
def test_files_of_another_shape_are_named(tmp_path: Path, text: str) -> None:
    (write_student(tmp_path) / "runtime.json").write_text(text)
    with pytest.raises(ValueError, match=r"runtime\.json (is|can't|must)"):
        load_exported(tmp_path)


def test_not_utf8_and_with_a_byte_order_mark(tmp_path: Path) -> None:
    config = write_student(tmp_path) / "runtime.json"
    content = config.read_bytes()
    config.write_bytes(b"\xef\xbb\xbf" + content)
    load_exported(tmp_path)
    config.write_bytes(content.replace(b"target", b"\xe9"))
    with pytest.raises(ValueError, match=r"runtime\.json is no text in UTF-8"):
        load_exported(tmp_path)


def test_an_onnx_file_of_another_export_is_refused(tmp_path: Path) -> None:
    write_student(tmp_path / "a", threshold=0.3)
    write_student(tmp_path / "b", threshold_inside=True)
    (tmp_path / "a" / "model.onnx").write_bytes((tmp_path / "b" / "model.onnx").read_bytes())
    with pytest.raises(ValueError, match=r"model\.onnx is another than runtime\.json .* export the model again"):
        load_exported(tmp_path / "a")
    write_student(tmp_path / "c")
    (tmp_path / "c" / "model_int8.onnx").write_bytes((tmp_path / "b" / "model.onnx").read_bytes())
    load_exported(tmp_path / "c")
    with pytest.raises(ValueError, match=r"model_int8\.onnx is not among those"):
        load_exported(tmp_path / "c", "model_int8.onnx")


def test_a_record_of_no_files_names_none(tmp_path: Path) -> None:
    config = json.loads((write_student(tmp_path) / "runtime.json").read_text())
    (tmp_path / "runtime.json").write_text(json.dumps({**config, "files": {}}))
    with pytest.raises(ValueError, match="is not among those"):
        load_exported(tmp_path)
