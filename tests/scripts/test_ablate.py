"""The ablation program on tiny data: two steps a cell."""

import json
import shutil
import statistics
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState

from scalpel_hf import SyntheticInfrared, apply_label_budget
from scalpel_hf.recipes import distill
from scalpel_hf.training.new_teacher import lora_of_equal_size
from scripts.experiments import ablate
from tests.adapter.adapted import adapted, small_config
from tests.small_models import small_mobile_sam, small_sam

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ablation")
    camera = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(2, 5), seed=3)
    splits = {"train": apply_label_budget(camera.to_dataset(4), 0.5), "test": camera.to_dataset(2, start=4)}
    datasets.DatasetDict(splits).save_to_disk(str(root / "data"))
    small_mobile_sam().save_pretrained(str(root / "base"))
    common = {"dataset": str(root / "data"), "base_model": str(root / "base"), "image_size": 64}
    common |= {"max_steps": 2, "batch_size": 2, "crop_size": 32, "feature_cache_dtype": "float32"}
    variants = {"full": {}, "no-mask-level": {"levels": ["token"]}, "lora": {"adapter": "lora"}}
    path = root / "ablation.yaml"
    path.write_text(yaml.safe_dump({"common": common, "seeds": [0, 1], "variants": variants}))
    return path


@pytest.fixture(scope="module")
def done(config: Path) -> Path:
    """All variants at one seed, in this process; then one of them at two, the second as the program does it."""
    runs, out = config.parent / "runs", config.parent / "table.md"

    def train(values: dict, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "cell.yaml").write_text(yaml.safe_dump(values))
        distill.main(["--config", str(folder / "cell.yaml")])
        AcceleratorState._reset_state(True)
        GradientState._reset_state()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate, "train", train)
        ablate.main([*map(str, ("--config", config, "--runs", runs, "--out", out)), "--seeds", "0"])
    ablate.main([*map(str, ("--config", config, "--runs", runs, "--out", out)), "--variants", "full"])
    return runs


def test_cells_are_measured_and_kept(config: Path, done: Path, monkeypatch) -> None:
    assert sorted(f.name for f in done.iterdir()) == ["features", "full-0", "full-1", "lora-0", "no-mask-level-0"]
    record = json.loads((done / "full-1" / "figures.json").read_text())
    assert record["settings"]["seed"] == 1 and 0 <= record["figures"]["iou"] <= 1
    assert list(yaml.safe_load((done / "full-1" / "cell.yaml").read_text())) == list(record["settings"])
    monkeypatch.setattr(ablate, "train", lambda *_: pytest.fail("a finished cell was run again"))
    out = config.parent / "again.md"
    ablate.main([*map(str, ("--config", config, "--runs", done, "--out", out)), "--seeds", "0"])
    assert out.read_text().count("\n| ") == 4  # the header and three variants
    changed = yaml.safe_load(config.read_text())
    changed["common"]["learning_rate"] = 1e-4
    other = config.with_name("other.yaml")
    other.write_text(yaml.safe_dump(changed))
    with pytest.raises(ValueError, match="full-0 is of other settings"):
        ablate.main([*map(str, ("--config", other, "--runs", done, "--out", out))])


def clear_hashes() -> None:
    ablate.hash_of_split.cache_clear()
    ablate.hash_of_base.cache_clear()


@pytest.mark.parametrize("changed", ["train", "test", "base", "version"])
def test_cells_of_other_data_or_another_base_are_not_taken_for_these(
    config: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Under the same names, after `prepare --overwrite`, say."""
    root = config.parent
    for name in ("data", "base"):
        shutil.copytree(root / name, tmp_path / name)
    splits, base = datasets.load_from_disk(str(tmp_path / "data")), small_mobile_sam()
    if changed == "base":
        with torch.no_grad():
            next(base.mask_decoder.parameters()).add_(1)
        base.save_pretrained(str(root / "base"))
    elif changed == "version":
        monkeypatch.setattr(ablate, "__version__", "0.0.0")
    else:
        shutil.rmtree(root / "data")
        splits[changed] = splits[changed].select(range(len(splits[changed]) - 1))
        splits.save_to_disk(str(root / "data"))
    clear_hashes()
    monkeypatch.setattr(ablate, "train", lambda *_: pytest.fail("a cell was run"))
    try:
        with pytest.raises(ValueError, match="full-0 is of other data, base or version: remove it"):
            ablate.main([*map(str, ("--config", config, "--runs", done, "--out", tmp_path / "t.md")), "--seeds", "0"])
    finally:
        for name in ("data", "base"):
            shutil.rmtree(root / name)
            shutil.copytree(tmp_path / name, root / name)
        clear_hashes()


def test_a_split_that_cannot_be_measured_is_said_before_any_cell(config: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(ablate, "train", lambda *_: pytest.fail("a cell was run"))
    command = ["--config", str(config), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "t.md"), "--split"]
    with pytest.raises(ValueError, match="2 of its 4 frames have no mask"):
        ablate.main([*command, "train"])
    with pytest.raises(ValueError, match="has no split 'val', only train, test: name one of these, or name another"):
        ablate.main([*command, "val"])


def test_the_table_has_means_and_spreads(config: Path, done: Path) -> None:
    text = (config.parent / "table.md").read_text()
    ious = [100 * json.loads((done / f"full-{s}" / "figures.json").read_text())["figures"]["iou"] for s in (0, 1)]
    expected = f"| full | 2 | {statistics.mean(ious):.1f} ± {statistics.stdev(ious):.1f} |"
    row = next(line for line in text.splitlines() if line.startswith("| full"))
    assert expected == " | ".join([*row.split(" | ")[:2], row.split(" | ")[3]]) + " |"

    def record(iou: float) -> dict:
        return {"figures": {"iou": iou, "niou": iou / 2, "pd": 1.0, "fa": 12.34}, "weights": 2600}

    lines = ablate.table({"worse": [record(0.3)], "better": [record(0.5), record(0.7)]}, "command").splitlines()
    assert lines[-2] == "| better | 2 | 3 k | 60.0 ± 14.1 | 30.0 ± 7.1 | 100.0 ± 0.0 | 12.3 ± 0.0 |"
    assert lines[-1] == "| worse | 1 | 3 k | 30.0 | 15.0 | 100.0 | 12.3 |"


def test_a_cell_that_fails_is_named(config: Path) -> None:
    broken = yaml.safe_load(config.read_text()) | {"variants": {"broken": {"operators": ["sobel"]}}}
    path = config.with_name("broken.yaml")
    path.write_text(yaml.safe_dump(broken))
    out = config.parent / "broken.md"
    with pytest.raises(ValueError, match=r"broken-0 ended with status 1: error: unknown operators"):
        ablate.main([*map(str, ("--config", path, "--runs", config.parent / "broken", "--out", out))])
    assert not out.exists() and not (config.parent / "broken" / "broken-0" / "figures.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variants": None}, "must have `common`, `seeds` and `variants`"),
        ({"variants": {"a": {"seed": 3}}}, "seed of 'a' is set by this program"),
        ({"common": {"output_dir": "x"}}, "output_dir of 'full' is set by this program"),
    ],
)
def test_a_wrong_file_is_a_clear_error(config: Path, change: dict, message: str) -> None:
    values = {k: v for k, v in (yaml.safe_load(config.read_text()) | change).items() if v is not None}
    path = config.with_name("wrong.yaml")
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=message):
        ablate.main(["--config", str(path), "--out", "x.md"])
    with pytest.raises(ValueError, match="has no variant none-such"):
        ablate.main(["--config", str(config), "--out", "x.md", "--variants", "none-such"])


def test_the_recipes_variants_are_configurations() -> None:
    config = ablate.read_config(ROOT / "recipes" / "nuaa_sirst" / "ablation.yaml")
    assert len(config["seeds"]) >= 3 and config["variants"]["full"] == {}
    operators = {"local_contrast", "top_hat", "matched_filter", "anisotropic_diffusion"}
    left_out = [operators - set(v["operators"]) for v in config["variants"].values() if v.get("operators")]
    assert sorted(map(tuple, left_out)) == sorted((name,) for name in operators)


@pytest.mark.parametrize("name", ["ablation", "budgets", "levels"])
def test_every_cell_of_the_recipes_is_a_run_of_distill(name: str) -> None:
    config = ablate.read_config(ROOT / "recipes" / "nuaa_sirst" / f"{name}.yaml")
    for variant in config["variants"]:
        values = ablate.settings(config, variant, 0, Path("runs"))
        whole = name == "levels" or "-full" in variant
        steps = 480 if "-long" in variant else 1000 if whole else 160
        assert distill.DistillArguments(**values).max_steps == steps and values["dataset"]


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("make", [small_sam, small_mobile_sam])
def test_lora_is_as_large_as_the_adapter(make, by_name: bool) -> None:
    last = "layers.2" if make is small_sam else "layers.3.blocks.1"
    base, config = make(), small_config(blocks=[last] if by_name else 1)
    own = set(dict(base.named_modules()))
    lora = lora_of_equal_size(base, config)
    assert set(dict(base.named_modules())) == own
    assert all(name.startswith((f"vision_encoder.{last}.", "mask_decoder.")) for name in lora.target_modules)
    assert any("attn.qkv" in n for n in lora.target_modules) and any("hypernetworks" in n for n in lora.target_modules)
    wanted, _ = adapted(make(), blocks=1).get_nb_trainable_parameters()
    base.add_adapter(lora)
    weights = sum(p.numel() for p in base.parameters() if p.requires_grad)
    assert abs(weights - wanted) <= 0.5 * weights / lora.r
