"""Which files of a folder are images."""

import os
from pathlib import Path

import pytest

from scalpel_hf.modeling.frame_io import IMAGE_SUFFIXES
from scalpel_hf.utils.image_files import LinkedWarning, PassedOverWarning, find_images


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_images(root)]


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_suffixes_in_capitals_or_not(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path, f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}")
    assert names(tmp_path) == [f"a{suffix}", f"b{suffix.upper()}", f"c{suffix.title()}"]


def test_sub_folders_are_looked_through_and_what_is_hidden_is_not(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.png", "b/1.png", "a.png", "c/d/e.TIF", "._a.png", ".thumbs/a.png", "b/._1.png", ".DS_Store")
    assert names(tmp_path) == ["a.png", "b/1.png", "b/2.png", "c/d/e.TIF"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    touch(tmp_path, "real/a.png", "set/b.png")
    (tmp_path / "set" / "more").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "circle").symlink_to(tmp_path / "set")
    with (
        pytest.warns(LinkedWarning),
        pytest.warns(PassedOverWarning, match=r"1 folders in it are links to others .*more/circle"),
    ):
        assert names(tmp_path / "set") == ["b.png", "more/a.png"]


def test_a_second_link_to_a_folder_is_passed_over_and_said(tmp_path: Path) -> None:
    touch(tmp_path, "set/a/1.png", "set/a/2.png")
    (tmp_path / "set" / "b").symlink_to("a")
    (tmp_path / "set" / "file.png").symlink_to("a/1.png")
    (tmp_path / "other").symlink_to("set")
    with pytest.warns(PassedOverWarning, match=r"1 folders in it are links to others .*set/b"):
        assert names(tmp_path / "set") == ["a/1.png", "a/2.png", "file.png"]
    with pytest.warns(PassedOverWarning):
        assert names(tmp_path / "other") == ["a/1.png", "a/2.png", "file.png"]  # itself a link


def test_links_that_lead_out_of_the_folder_are_said(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    touch(tmp_path, "set/a.png", "set/b/1.png", "set2/x.png", "private/deep/2.png", "private/3.png")
    (tmp_path / "set" / "inside.png").symlink_to("b/1.png")
    (tmp_path / "same").symlink_to("set")
    assert len(names(tmp_path / "set")) == len(names(tmp_path / "same")) == 3 and not recwarn.list
    (tmp_path / "set" / "f.png").symlink_to("../private/3.png")
    (tmp_path / "set" / "g.png").symlink_to(tmp_path / "set2" / "x.png")  # whose name begins like the folder's
    (tmp_path / "set" / "sub").symlink_to("../private/deep")
    for folder in ("set", "same"):
        with pytest.warns(LinkedWarning, match=rf"{folder}: 3 of its 6 files are links .*\(f.png is .*private/3.png\)"):
            assert names(tmp_path / folder)[-2:] == ["inside.png", "sub/2.png"]


def test_other_files_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.raw", "b.raw", "notes.txt", "LICENSE")
    with pytest.warns(PassedOverWarning, match=r"1 images, and 4 other .*2 \*\.raw, 1 without a suffix, 1 \*\.txt"):
        assert names(tmp_path) == ["a.png"]


def test_nothing_usable_is_an_error_that_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no images \(\*\.png.*there are no files in it"):
        find_images(tmp_path)
    touch(tmp_path, "deep/a.jp2", "b.raw")
    with pytest.raises(FileNotFoundError, match=r"there are only other files \(1 \*\.raw, 1 \*\.jp2\)"):
        find_images(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        find_images(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*pipe"):
        find_images(tmp_path / "pipe")
