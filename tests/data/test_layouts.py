import pytest
from PIL import Image

from scalpel_hf.data import LAYOUTS, Layout, load_irst_dataset
from scalpel_hf.data.layouts import find_pairs

NAMES = ["Misc_1", "Misc_2", "XDU3", "000004", "a.b-5"]
GENERIC = LAYOUTS["generic"]
OLD, NEW = LAYOUTS["nuaa-sirst"], Layout(mask_suffixes=("",))

CASES = {
    "nuaa, splits/": ("nuaa-sirst", OLD, "splits/official-427/trainval.txt", "splits/official-427/test.txt"),
    "nuaa, authors": ("nuaa-sirst", OLD, "idx_427/trainval.txt", "idx_427/test.txt"),
    "nudt, splits/": ("nudt-sirst", NEW, "splits/train.txt", "splits/test.txt"),
    "nudt, authors": ("nudt-sirst", NEW, "50_50/train.txt", "50_50/test.txt"),
    "nudt, img_idx/": ("nudt-sirst", NEW, "img_idx/train_NUDT-SIRST.txt", "img_idx/test_NUDT-SIRST.txt"),
    "irstd-1k, authors": ("irstd-1k", LAYOUTS["irstd-1k"], "trainval.txt", "test.txt"),
    "irstd-1k, images/": ("irstd-1k", NEW, "trainval.txt", "test.txt"),
    "sirst-v2": ("sirst-v2", LAYOUTS["sirst-v2"], "splits/trainval_full.txt", "splits/test_full.txt"),
    "generic": ("generic", LAYOUTS["generic"], "splits/train.txt", "splits/test.txt"),
    "generic, lists beside": ("generic", LAYOUTS["generic"], "train.txt", "test.txt"),
}


@pytest.mark.parametrize("case", CASES)
def test_default_splits_of_each_layout(case, make_set):
    name, written_as, train, test = CASES[case]
    root = make_set(written_as, NAMES, {train: NAMES[3:1:-1], test: [NAMES[0], NAMES[4]]})
    data = load_irst_dataset(name, root)
    assert {split: part["name"][:] for split, part in data.items()} == {
        "train": ["000004", "XDU3"],
        "test": ["Misc_1", "a.b-5"],
    }
    assert data["test"][0]["objects"]["area"] == [6]
    alone = load_irst_dataset(name, root, split="test")
    assert alone["name"][:] == ["Misc_1", "a.b-5"]
    assert alone.split == "test"


def test_named_split_lists_of_nuaa(make_set):
    lists = {
        "splits/official-427/train.txt": ["Misc_1"],
        "splits/official-427/val.txt": ["Misc_2"],
        "splits/official-427/trainval.txt": ["Misc_1", "Misc_2"],
        "splits/official-427/test.txt": ["XDU3"],
        "splits/dnanet-50-50/train.txt": ["XDU3"],
        "splits/dnanet-50-50/test.txt": ["000004"],
    }
    root = make_set(OLD, NAMES, lists)

    def names(split_list):
        pairs = find_pairs(OLD, root, split_list)
        return {split: [pair.name for pair in part] for split, part in pairs.items()}

    assert names(None) == names("official-427") == {"train": ["Misc_1", "Misc_2"], "test": ["XDU3"]}
    assert names("official-427-val") == {"train": ["Misc_1"], "validation": ["Misc_2"], "test": ["XDU3"]}
    assert names("dnanet-50-50") == {"train": ["XDU3"], "test": ["000004"]}
    with pytest.raises(
        FileNotFoundError, match=r"the train list: looked for splits/official-320/trainval.txt, idx_320/"
    ):
        names("official-320")
    with pytest.raises(ValueError, match=r"no split list 'official'.*official-427.*dnanet-50-50"):
        names("official")


def test_own_lists_and_own_folders(make_set, tmp_path):
    layout = Layout(images=("frames",), masks=("truth",), mask_suffixes=("_t",))
    root = make_set(layout, NAMES, {"a.txt": NAMES[:2]})
    elsewhere = tmp_path / "b.txt"
    elsewhere.write_text("XDU3.PNG\r\n\r\n  000004.png  \r\n", encoding="utf-8-sig")
    pairs = find_pairs(layout, root, {"train": "a.txt", "test": elsewhere})
    assert [pair.name for pair in pairs["test"]] == ["XDU3", "000004"]
    assert pairs["train"][1].mask == root / "truth" / "Misc_2_t.png"
    assert [pair.problem for part in pairs.values() for pair in part] == [None] * 4


def test_without_lists_all_frames_are_train(make_set):
    pairs = find_pairs(LAYOUTS["generic"], make_set(LAYOUTS["generic"], NAMES, {}))
    assert [pair.name for pair in pairs["train"]] == sorted(NAMES)
    assert list(pairs) == ["train"]


def test_a_named_data_set_without_its_lists_is_an_error(make_set):
    root = make_set(NEW, NAMES, {})
    with pytest.raises(FileNotFoundError, match=r"looked for splits/train\.txt, 50_50/train\.txt"):
        load_irst_dataset("nudt-sirst", root)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train.txt": ["Misc_1", "XDU3", "Misc_1"], "test.txt": ["Misc_2"]}, "train.txt names Misc_1 more than once"),
        ({"train.txt": ["Misc_1", "XDU3"], "test.txt": ["XDU3"]}, "train and test lists share XDU3"),
        ({"train.txt": ["Misc_1"], "val.txt": ["Misc_1"]}, "train and validation lists share Misc_1"),
        ({"train.txt": [" "], "test.txt": ["XDU3"]}, "train.txt names no image"),
    ],
)
def test_lists_that_contradict_themselves(lists, message, make_set):
    with pytest.raises(ValueError, match=message):
        load_irst_dataset("generic", make_set(LAYOUTS["generic"], NAMES, lists))


def test_lists_whose_names_say_that_they_overlap(make_set):
    root = make_set(NEW, NAMES, {"train.txt": NAMES[:2], "trainval.txt": NAMES[:3], "test.txt": NAMES[3:]})
    lists = {"train": "train.txt", "trainval": "trainval.txt", "test": "test.txt"}
    assert [len(part) for part in find_pairs(NEW, root, lists).values()] == [2, 3, 2]
    with pytest.raises(ValueError, match="fold1 and fold2 lists share Misc_1, Misc_2"):
        find_pairs(NEW, root, {"fold1": "train.txt", "fold2": "trainval.txt"})


def test_wrong_names_and_places(make_set, tmp_path):
    root = make_set(LAYOUTS["generic"], NAMES, {"train.txt": NAMES})
    with pytest.raises(
        ValueError, match="no layout 'nuaa': nuaa-sirst, nudt-sirst, irstd-1k, sirst-v2, voc, generic, hub"
    ):
        load_irst_dataset("nuaa", root)
    with pytest.raises(ValueError, match="no split 'test', there are train"):
        load_irst_dataset("generic", root, split="test")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*: `root` is"):
        load_irst_dataset("generic", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="the frames: looked for IRSTD1k_Img, images"):
        load_irst_dataset("irstd-1k", tmp_path / "empty")


def found(pairs):
    """Frames' names with their files, relative to the root."""
    return {pair.name: (pair.image and pair.image.name, pair.mask and pair.mask.name) for pair in pairs}


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(root / name)


@pytest.mark.parametrize("suffix", [".PNG", ".bmp", ".Tif", ".webp", ".JPEG"])
def test_frames_of_any_kind_in_sub_folders(suffix, tmp_path):
    write(tmp_path, f"images/a/f0{suffix}", f"images/b/f0{suffix}", f"images/c/d/f2{suffix}", f"images/f3{suffix}")
    write(tmp_path, "masks/a/f0.png", "masks/b/f0_mask.png", "masks/f2.png", "masks/x/f3.png")
    (tmp_path / "images" / "._f3.png").write_bytes(b"of macOS")
    (pairs,) = find_pairs(GENERIC, tmp_path).values()
    assert found(pairs) == {
        "a_f0": (f"f0{suffix}", "f0.png"),
        "b_f0": (f"f0{suffix}", "f0_mask.png"),
        "c_d_f2": (f"f2{suffix}", "f2.png"),
        "f3": (f"f3{suffix}", "f3.png"),
    }
    assert not any(pair.problem for pair in pairs)


def test_a_mask_whose_frame_is_a_guess_is_nobodys(tmp_path):
    write(tmp_path, "images/a/f0.png", "images/b/f0.png", "masks/f0.png")
    (pairs,) = find_pairs(GENERIC, tmp_path).values()
    assert [pair.problem[:12] for pair in pairs] == ["no mask a_f0", "no mask b_f0"]
    write(tmp_path, "images/a_f0.png")  # and two files that would have one name
    (pairs,) = find_pairs(GENERIC, tmp_path).values()
    write(tmp_path, "masks/a/f0.png")
    (pairs,) = find_pairs(GENERIC, tmp_path).values()
    assert "several files" in {pair.name: pair for pair in pairs}["a_f0"].problem


@pytest.mark.parametrize("written", ["a/f0", "a\\f0.png", "images/a/f0.PNG", "./a/f0", "/data/images/a/f0.png", "a_f0"])
def test_lists_may_write_paths(written, tmp_path):
    write(tmp_path, "images/a/f0.png", "images/b/f0.png", "masks/a/f0.png", "masks/b/f0.png")
    (tmp_path / "train.txt").write_text(written + "\n")
    (pairs,) = find_pairs(GENERIC, tmp_path).values()
    assert [(pair.name, pair.problem) for pair in pairs] == [("a_f0", None)]
    assert pairs[0].mask == tmp_path / "masks" / "a" / "f0.png"


def test_names_by_their_letters_not_their_bytes(tmp_path):
    write(tmp_path, "images/Ka\u0308lte.png", "masks/K\u00e4lte.png")
    (tmp_path / "train.txt").write_text("K\u00e4lte\n", encoding="utf-8")
    (pairs,) = find_pairs(GENERIC, tmp_path).values()
    assert [(pair.name, pair.problem) for pair in pairs] == [("K\u00e4lte", None)]


def test_names_that_are_no_frames_come_with_the_nearest(tmp_path):
    write(tmp_path, "images/frame_01.png", "images/frame_22.png", "masks/frame_01.png", "masks/frame_22.png")
    (tmp_path / "train.txt").write_text("Frame-22\nc/f0\n")
    (pairs,) = find_pairs(GENERIC, tmp_path).values()
    assert pairs[0].problem.startswith("no such image: ") and "'frame_22'" in pairs[0].problem
    (tmp_path / "train.txt").write_text("frame_01\nimages/frame_01.png\n")
    with pytest.raises(ValueError, match="names frame_01 more than once"):
        find_pairs(GENERIC, tmp_path)


def test_a_folder_without_images_is_an_error(tmp_path):
    write(tmp_path, "masks/f0.png")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "f0.raw").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"images has no images .* only other files \(1 \*\.raw\)"):
        find_pairs(GENERIC, tmp_path)
