import math
import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from safetensors.numpy import save_file

from scalpel_hf.utils.files import (
    DiskFullError,
    check_can_be_made,
    is_disk_full,
    remove_leftovers,
    whole_file,
    whole_folder,
    write_bytes,
    write_json,
    write_text,
)
from scalpel_hf.utils.reading import read_json, read_text, read_yaml


def test_what_can_be_made_is_not_made_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("a/b/c", ".", tmp_path, tmp_path / "new"):
        check_can_be_made(path, "--out")
    assert not list(tmp_path.iterdir())


def test_what_is_in_the_way_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    for path in (file, file / "a" / "b"):
        with pytest.raises(ValueError, match=rf"written to {path}, as {file} is a file: choose another `--out`"):
            check_can_be_made(path, "--out")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(ValueError, match=rf"as {tmp_path} is not yours to write to: choose another `--out`"):
        check_can_be_made(tmp_path / "a" / "b", "--out")


# Writing

DEAD = 2**22 + 1  # no process has this number: the most that Linux gives is 2**22


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figures.json"
    write_json(path, {"iou": 0.5})
    assert read_json(path) == {"iou": 0.5}
    with pytest.raises(ZeroDivisionError), whole_file(path) as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert read_json(path) == {"iou": 0.5} and names(path.parent) == ["figures.json"]


def test_text_is_written_in_utf_8_and_names_that_are_none_do_not_stop_it(tmp_path: Path) -> None:
    write_text(tmp_path / "report.md", "3 × █ \udcff\n")
    assert (tmp_path / "report.md").read_bytes() == "3 × █ \\udcff\n".encode()


def test_a_link_stays_a_link_and_what_is_no_file_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "disk" / "there.json")
    write_json(tmp_path / "link.json", [1])
    assert (tmp_path / "link.json").is_symlink() and read_json(tmp_path / "disk" / "there.json", list) == [1]
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    with whole_folder(tmp_path / "link", replace=True) as part:
        (part / "file").touch()
    assert (tmp_path / "link").is_symlink() and names(tmp_path / "disk") == ["file"]
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "disk"):
        with pytest.raises(ValueError, match="is there already and is no file"):
            write_text(path, "")


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_files_have_the_permissions_of_the_umask_whoever_wrote_them(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "model") as part:
            save_file({"x": np.zeros(3)}, part / "model.safetensors")
            (part / "config.json").write_text("{}")
        with whole_file(tmp_path / "best.safetensors") as part:
            save_file({"x": np.zeros(3)}, part)
    finally:
        os.umask(before)
    for name in ("model/model.safetensors", "model/config.json", "best.safetensors"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_there_whole_or_as_it_was(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
        (out / "old").touch()
    with pytest.raises(KeyboardInterrupt), whole_folder(out, replace=True) as part:
        (part / "new").touch()
        raise KeyboardInterrupt
    assert names(tmp_path) == (["out", "out/old"] if there else [])
    with whole_folder(out, replace=True) as part:
        (part / "new").touch()
    assert names(tmp_path) == ["out", "out/new"]


def test_a_folder_is_replaced_only_where_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="out exists"), whole_folder(tmp_path / "out"):
        pass
    with pytest.raises(FileExistsError, match="file is a file"), whole_folder(tmp_path / "file", replace=True):
        pass


def replace_for_ever(out: Path) -> None:
    while True:
        with whole_folder(out, replace=True) as part:
            (part / "file").touch()


def test_there_is_a_folder_at_every_time_while_it_is_replaced_and_after_a_kill(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "file").touch()
    process = multiprocessing.get_context("fork").Process(target=replace_for_ever, args=(out,))
    process.start()
    ends = time.monotonic() + 1
    while time.monotonic() < ends:
        assert out.exists()
    process.kill()
    process.join()
    assert names(out) == ["file"]
    with whole_folder(out, replace=True):
        pass
    assert names(tmp_path) == ["out"]


def test_without_exchange_the_old_folder_comes_back_after_a_kill_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: None)
    out = tmp_path / "out"
    for name in ("first", "second"):
        with whole_folder(out, replace=True) as part:
            (part / name).touch()
        assert names(tmp_path) == ["out", f"out/{name}"]
    out.rename(tmp_path / f".out.{DEAD}-1.old")
    (tmp_path / f".out.{DEAD}-1.part").mkdir()
    with pytest.warns(UserWarning, match="out is back"), pytest.raises(FileExistsError), whole_folder(out):
        pass
    assert names(tmp_path) == ["out", "out/second"]


def test_leftovers_of_dead_processes_go_and_others_stay(tmp_path: Path) -> None:
    living = f".a.json.{os.getppid()}-1.part"
    others = [f".b.json.{DEAD}-1.part", ".a.json.part", f"a.json.{DEAD}-1.part", living, ".x.1-1.part.txt"]
    for name in [f".a.json.{DEAD}-1.part", *others]:
        (tmp_path / name).touch()
    write_json(tmp_path / "a.json", {})
    assert names(tmp_path) == sorted([*others, "a.json"])
    remove_leftovers(tmp_path / "x", r".*\.json")
    assert names(tmp_path) == sorted([*others[1:], "a.json"])


@pytest.mark.parametrize("writer", ["bytes", "json", "tensors", "folder"])
def test_where_there_is_no_room_the_file_and_the_room_are_named(tmp_path: Path, writer: str) -> None:
    path, tensors = tmp_path / "out", {"x": np.zeros(10**6)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, limits[1]))
    try:
        with pytest.raises(DiskFullError, match=rf"no room for {path}: it needs more than the \d.*MB are free"):
            if writer == "bytes":
                write_bytes(path, bytes(2 * 10**6))
            elif writer == "json":
                write_json(path, [0] * 10**6)
            elif writer == "tensors":
                with whole_file(path) as part:
                    save_file(tensors, part)
            else:
                with whole_folder(path) as part:
                    Dataset.from_dict({"x": tensors["x"]}).save_to_disk(str(part))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


# Reading


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_with_and_without_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a").write_text('{"ä": "é×"}', encoding=encoding)
    assert read_text(tmp_path / "a") == '{"ä": "é×"}'
    assert read_json(tmp_path / "a") == {"ä": "é×"} == read_yaml(tmp_path / "a")


def test_what_is_no_file_and_no_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "picture").write_bytes(b"\x89PNG")
    for read in (read_text, read_json, read_yaml):
        with pytest.raises(ValueError, match="pipe is a pipe or device, not a file"):
            read(tmp_path / "pipe")
        with pytest.raises(ValueError, match="is a folder, not a file"):
            read(tmp_path)
        with pytest.raises(ValueError, match="picture is no text in UTF-8: byte 0 is 0x89"):
            read(tmp_path / "picture")
        with pytest.raises(FileNotFoundError, match="absent"):
            read(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "can't be read as JSON: Expecting value"),
        ('{"a": 1,', "can't be read as JSON: .*line 1 column 9"),
        ('{"a": {"b": 1, "c": 2, "b": 3}}', "'b' is there twice in one object"),
        ("[1]", "must hold an object of names and values, and holds a list"),
        ("3", "and holds a number"),
        ("true", "and holds True"),
        ("null", "and holds None"),
        ("[" * 100_000, "is nested too deeply"),
        ("1" * 5000, "can't be read as JSON"),
    ],
)
def test_json_that_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"{path} .*{problem}|{path} {problem}"):
        read_json(path)


def test_json_of_several_kinds(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("[1]")
    assert read_json(tmp_path / "a", (dict, list)) == [1]
    (tmp_path / "b").write_text("true")
    with pytest.raises(ValueError, match="must hold a number, and holds True"):
        read_json(tmp_path / "b", int)


def test_yaml_values_are_what_they_look_like(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(
        "a: 1e-3\nb: 010\nc: 1:30\nd: 2024-01-02\ne: -12\nf: .5\ng: 1.\nh: off\ni: 1_000\nj: 0x10\nk: -.inf\n"
        "l: [1, 2.5e+3]\nm:\nn: '1'\no: 0\np: -0.25\nq: true\nr: 1.2.3\ns: 00\n"
    )
    expected = {"a": 0.001, "b": "010", "c": "1:30", "d": "2024-01-02", "e": -12, "f": 0.5, "g": 1.0, "h": False}
    expected |= {"i": "1_000", "j": "0x10", "k": -math.inf, "l": [1, 2500.0], "m": None, "n": "1", "o": 0, "p": -0.25}
    expected |= {"q": True, "r": "1.2.3", "s": "00"}
    content = read_yaml(tmp_path / "a")
    assert content == expected
    assert {k: type(v) for k, v in content.items()} == {k: type(v) for k, v in expected.items()}
    (tmp_path / "a").write_text("")
    assert read_yaml(tmp_path / "a") == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", "can't be read as YAML: 'a' is there twice.*line 1"),
        ("x: {a: 1, a: 2}", "'a' is there twice"),
        ("a: &l [1, 2]\nb: [*l, *l]", "aliases are not read.*line 2"),
        ("- 1", "must hold an object of names and values, and holds a list"),
        ("text", "and holds text"),
        ("a: [1", "can't be read as YAML: while parsing"),
        ("a: !!python/object/apply:os.system [ls]", "can't be read as YAML: could not determine a constructor"),
        ("{a: 1}: 2", "can't be read as YAML: while constructing a mapping.* unhashable"),
        ("a: " + "[" * 5000, "is nested too deeply"),
        ("a: 1\n" * 300_000, "is no configuration: it has more than 1.0 MB"),
        ("a: \x00", "can't be read as YAML: unacceptable character"),
    ],
)
def test_yaml_that_is_wrong(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"{path} .*{problem}|{path} {problem}") as raised:
        read_yaml(path)
    assert "\n" not in str(raised.value)


def test_a_cause_that_is_raised_again_has_an_end() -> None:
    def raised_again(cause: Exception) -> Exception:
        try:
            try:
                raise RuntimeError("it failed") from cause
            except RuntimeError as error:
                assert error.__cause__ is not None
                raise error.__cause__ from None
        except Exception as error:
            return error

    assert not is_disk_full(raised_again(ValueError("not one frame can be used")))
    assert is_disk_full(raised_again(OSError(28, "No space left on device")))
