import os
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch
from huggingface_hub import HfApi

from tests.hub.server import HubServer

DEFAULT_SHARED = Path(__file__).parents[2] / "shared"

# What is compared bit by bit here is the CPU's, on a machine with a GPU too: tests/test_gpu.py is about the other.
VISIBLE_GPUS = os.environ.get("CUDA_VISIBLE_DEVICES")
os.environ["CUDA_VISIBLE_DEVICES"] = ""


# What `make test-fast` leaves out: tests whose file says one of these words, or that ask for one of these fixtures.
# Nobody knows which ones `getfixturevalue` asks for.
NOT_FAST = re.compile(
    r"subprocess|scripts.experiments|multiprocessing|tests\.hub\b|\.browser|\bonnx|import demo|torch\.export|benchmark_"
    r"|tests\.fuzz|scalpel_hf\.recipes|streaming=True|safetensors|getfixturevalue"
)
NOT_FAST_FIXTURES = {"hub", "client", "shared_dir"}
# Tests of all Segment Anything models run with two, `sam` and `mobile-sam`.
NOT_FAST_CASES = re.compile(r"sam-global|sam-eager|slim-sam|sam-hq|sam2|sam3|edgetam")


def is_fast(path: Path) -> bool:
    return not NOT_FAST.search(path.read_text(encoding="utf-8"))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m fast` files without fast tests aren't even imported, which takes seconds."""
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    return True if config.option.markexpr == "fast" and is_test and not is_fast(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Mark as `fast` what starts no process, Hub, browser or export, runs no recipe, reads no real data and no files of
    weights; nothing that is `slow`.
    """
    fast_files = {path: is_fast(path) for path in {item.path for item in items}}
    for item in items:
        fixtures = NOT_FAST_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        case = NOT_FAST_CASES.search(item.name.partition("[")[2])
        if fast_files[item.path] and not (fixtures or case or item.get_closest_marker("slow")):
            item.add_marker("fast")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Folder with `data/` and `weights/`: real infrared frames and real SAM weights, read in place."""
    folder = Path(os.environ.get("SCALPEL_SHARED", DEFAULT_SHARED))
    if not (folder / "data").is_dir():
        pytest.skip(f"real data and weights are not at {folder} (set SCALPEL_SHARED to where they are)")
    return folder


@pytest.fixture(autouse=True)
def same_settings() -> Iterator[None]:
    """Programs set torch's threads, with which results have other last bits, and what `datasets` caches and shows, for
    their own process: put it back for the test after."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    datasets.enable_caching()
    datasets.enable_progress_bars()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """
    A Hub on loopback with nothing on it.

    `hub.env` is the environment of a process that talks to it, with an empty cache: HF_ENDPOINT is read when the client
    is imported, so what is said about loading is tested in fresh interpreters, by `hub.run(code)`. In this process pass
    `endpoint=hub.endpoint, token=hub.token`; uploads here go by LFS, as there.
    """
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer() as server:
        server.home = tmp_path / "hf_home"
        yield server


@pytest.fixture
def client(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    """The pushing client of this process, with the loopback Hub as its endpoint, and no waiting between its tries."""
    monkeypatch.setattr("scalpel_hf.hub.upload.HfApi", lambda: HfApi(endpoint=hub.endpoint, token=hub.token))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    return HfApi(endpoint=hub.endpoint, token=hub.token)
