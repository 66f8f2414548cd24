import pytest

from scalpel_hf.data import LAYOUTS, Layout, load_irst_dataset
from scalpel_hf.data.layouts import find_pairs

NAMES = ["Misc_1", "Misc_2", "XDU3", "000004", "a.b-5"]
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
