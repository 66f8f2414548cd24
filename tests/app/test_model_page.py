"""The page that shows a model's answers, as a person uses it: in a real browser, with files dropped into it."""

import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from scalpel_hf import SyntheticInfrared
from scalpel_hf.app.model_page import page
from scalpel_hf.app.model_server import ModelServer
from scalpel_hf.app.predictions import predict_frame, read_one
from scalpel_hf.data import objects_from_mask
from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.modeling.frame_io import read_frame
from tests.hub.models import make_student, make_teacher
from tests.interrupts import start
from tests.pseudo_labels.helpers import FakeTeacher
from tests.runtime.made_by_hand import write_video
from tests.small_models import small_mobile_sam

from .browser import headless_chromium

gradio = pytest.importorskip("gradio", reason='Gradio is not installed: pip install "scalpel-hf[app]"')


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    with headless_chromium(1280, 1400) as driver:
        yield driver


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames of 16 bits, one by itself and both in one file."""
    folder = tmp_path_factory.mktemp("frames")
    camera = SyntheticInfrared(size=(64, 80), n_targets=(2, 2), extent=(3, 5), snr=(9, 12), bit_depth=16, seed=4)
    images = [Image.fromarray(camera.frame(index)["image"]) for index in range(2)]
    images[0].save(folder / "one.png")
    images[0].save(folder / "two.tif", save_all=True, append_images=images[1:])
    return folder


class Counting(FakeTeacher):
    """Says that the brightest are targets, and counts how often it is asked."""


@contextmanager
def open_page(chromium: Chrome, models: dict[str, Any]) -> Iterator[ModelServer]:
    server = ModelServer(lambda: page(models, "a model"))
    started = threading.Event()
    thread = threading.Thread(target=server.serve, args=[started.set])
    thread.start()
    try:
        assert started.wait(120)
        chromium.get(server.address)
        wait(chromium, "!!document.querySelector('#file input[type=file]')")
        yield server
        chromium.get("about:blank")
    finally:
        server.stop()
        thread.join()


def wait(chromium: Chrome, condition: str) -> None:
    WebDriverWait(chromium, 120, poll_frequency=0.05).until(
        lambda driver: driver.execute_script(f"return {condition}"), message=condition
    )


def wait_for_text(chromium: Chrome, part: str, words: str) -> None:
    wait(chromium, f"(document.getElementById({part!r}) || {{innerText: ''}}).innerText.includes({words!r})")


def drop(chromium: Chrome, path: Path) -> None:
    """Drop a file into the page, in place of the one that is there."""
    for clear in chromium.find_elements(By.CSS_SELECTOR, "#file button[aria-label*=lear]"):
        clear.click()
    wait(chromium, "!!document.querySelector('#file input[type=file]')")
    chromium.find_element(By.CSS_SELECTOR, "#file input[type=file]").send_keys(str(path))


def set_slider(chromium: Chrome, part: str, value: float) -> None:
    """Type a value into the field beside a slider."""
    field = chromium.find_element(By.CSS_SELECTOR, f"#{part} input[type=number]")
    field.send_keys(Keys.CONTROL + "a" + Keys.NULL, f"{value:g}", Keys.ENTER, Keys.TAB)


def captions(chromium: Chrome, part: str) -> list[str]:
    return [e.text for e in chromium.find_elements(By.CSS_SELECTOR, f"#{part} .caption-label")]


def picture(chromium: Chrome) -> str:
    return chromium.execute_script("return document.querySelector('#picture img').src")


def test_a_frame_of_16_bits_and_its_threshold(chromium: Chrome, frames: Path) -> None:
    model = Counting()
    probability = model.probabilities(read_frame(frames / "one.png"))
    model.calls = 0
    with open_page(chromium, {"model": model}):
        assert not chromium.find_elements(By.ID, "number") and not chromium.find_elements(By.ID, "who")
        drop(chromium, frames / "one.png")
        for threshold in (0.5, 0.9, 0.3):
            if threshold != 0.5:
                before = picture(chromium)
                set_slider(chromium, "threshold", threshold)
                wait(chromium, f"document.querySelector('#picture img').src !== {before!r}")
            count = len(objects_from_mask(probability > threshold)["area"])
            wait_for_text(chromium, "table", f"{count} targets above {threshold:g} in one.png, 80 × 64 pixels")
        assert model.calls == 1, "moving the threshold asks nothing"
        assert captions(chromium, "operators") == [name.replace("_", " ") for name in OPERATOR_SCALES]
        assert "No routers" in chromium.find_element(By.ID, "routers-help").text


def test_a_threshold_typed_while_the_page_is_busy(
    chromium: Chrome, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is typed comes key by key: the 0 of 0.9 must be a threshold too, as an error would take 0.9 with it."""
    take = gradio.Slider.preprocess

    def slow(self: Any, payload: float) -> float:
        time.sleep(0.5)
        return take(self, payload)

    with open_page(chromium, {"model": Counting()}):
        drop(chromium, frames / "one.png")
        wait_for_text(chromium, "table", "above 0.5 in one.png")
        monkeypatch.setattr(gradio.Slider, "preprocess", slow)
        field = chromium.find_element(By.CSS_SELECTOR, "#threshold input[type=number]")
        for key in (Keys.CONTROL + "a" + Keys.NULL, *"0.9"):
            field.send_keys(key)
            time.sleep(0.1)
        wait_for_text(chromium, "table", "above 0.9 in one.png")
        field.send_keys(Keys.CONTROL + "a" + Keys.NULL, ".3", Keys.TAB)
        wait_for_text(chromium, "table", "above 0.3 in one.png")


def test_teacher_and_student_and_frames_of_one_file(chromium: Chrome, frames: Path, tmp_path: Path) -> None:
    teacher, student = make_teacher(tmp_path, small_mobile_sam()), Counting()
    with open_page(chromium, {"student": student, "teacher": teacher}):
        drop(chromium, frames / "two.tif")
        wait_for_text(chromium, "table", "in two_000000")
        assert not captions(chromium, "routers")
        chromium.find_element(By.CSS_SELECTOR, "#who input[value=teacher]").click()
        wait(chromium, "document.querySelectorAll('#routers .caption-label').length === 4")
        weights = [float(caption.split(": ")[1]) for caption in captions(chromium, "routers")]
        assert sum(weights) == pytest.approx(1, abs=0.03)
        expected = predict_frame(teacher, *read_one(str(frames / "two.tif"), 0)).detections(0.5)
        wait_for_text(chromium, "table", f"{len(expected.scores)} targets above 0.5 in two_000000")
        chromium.find_element(By.CSS_SELECTOR, "#who input[value=student]").click()
        wait(chromium, "document.querySelectorAll('#routers .caption-label').length === 0")
        assert student.calls == 1, "an answer is kept while its frame is shown"
        set_slider(chromium, "number", 1)
        wait_for_text(chromium, "table", "in two_000001")


# The reddest pixel of what the player shows.
REDNESS = """
const video = document.querySelector('#clip video'), canvas = document.createElement('canvas');
[canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
const context = canvas.getContext('2d');
context.drawImage(video, 0, 0);
const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
let most = 0;
for (let i = 0; i < data.length; i += 4) most = Math.max(most, data[i] - data[i + 1]);
return most;
"""


def test_a_clip_is_played_with_boxes_drawn(
    chromium: Chrome, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("clips", "model_page"):
        monkeypatch.setattr(f"scalpel_hf.app.{module}.DRAWN_FRAMES", 12)
    camera = SyntheticInfrared(size=(64, 80), n_targets=(2, 2), extent=(3, 5), snr=(9, 12), seed=4)
    images = [np.asarray(camera.frame(index)["image"]) for index in range(15)]
    recording = write_video(tmp_path / "flight.mkv", images, "ffv1", "gray")  # which no browser plays
    chromium.get_log("browser")
    with open_page(chromium, {"student": Counting(), "teacher": FakeTeacher(0.0)}):
        drop(chromium, frames / "one.png")
        wait_for_text(chromium, "table", "in one.png")
        assert not chromium.find_elements(By.ID, "draw") and not chromium.find_elements(By.ID, "clip")
        drop(chromium, recording)
        wait_for_text(chromium, "draw", "Play the first 12 frames with boxes drawn")
        for who, drawn in (("student", True), ("teacher", False)):
            chromium.find_element(By.CSS_SELECTOR, f"#who input[value={who}]").click()
            chromium.find_element(By.ID, "draw").click()
            wait_for_text(chromium, "clip", f"flight, 12 frames: {who} above 0.5")
            wait(chromium, "(document.querySelector('#clip video') || {}).readyState >= 2")
            wait(chromium, "document.querySelector('#clip video').currentTime > 0.3")  # it plays by itself
            video = "document.querySelector('#clip video')"
            shown = chromium.execute_script(f"return [{video}.videoWidth, {video}.videoHeight, {video}.duration]")
            assert shown == [80, 64, pytest.approx(1.2)]
            assert (chromium.execute_script(REDNESS) > 60) == drawn
        assert not list(Path(tempfile.gettempdir()).glob("*/flight-drawn.mp4"))  # but for the page's own copy
        set_slider(chromium, "number", 3)  # a frame of it is looked at as before
        wait_for_text(chromium, "table", "in flight_000003")
        drop(chromium, frames / "one.png")
        wait_for_text(chromium, "table", "in one.png")
        assert not chromium.find_elements(By.ID, "draw") and not chromium.find_elements(By.ID, "clip")
        assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]


def test_what_is_wrong_with_a_clip_is_one_line_beside_its_frame(
    chromium: Chrome, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **settings: Any) -> int:
        raise ImportError('an overlay needs PyAV: pip install "scalpel-hf[video]"')

    monkeypatch.setattr("scalpel_hf.app.model_page.draw_clip", fails)
    with open_page(chromium, {"model": Counting()}):
        drop(chromium, frames / "two.tif")
        wait_for_text(chromium, "draw", "Play all 2 frames with boxes drawn")
        chromium.find_element(By.ID, "draw").click()
        wait_for_text(chromium, "problem", "an overlay needs PyAV")
        assert chromium.find_elements(By.CSS_SELECTOR, "#picture img")


def test_what_is_wrong_is_one_line_and_the_page_goes_on(chromium: Chrome, frames: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes((frames / "one.png").read_bytes()[:900])
    (tmp_path / "notes.txt").write_text("no frame")
    with open_page(chromium, {"model": Counting()}):
        for path in (broken, tmp_path / "notes.txt"):
            drop(chromium, frames / "one.png")
            wait_for_text(chromium, "table", "in one.png")
            drop(chromium, path)
            wait(chromium, "document.getElementById('problem').innerText.trim() !== ''")
            said = chromium.find_element(By.ID, "problem").text
            assert path.name in said and "\n" not in said and "/tmp" not in said
            assert not chromium.find_elements(By.CSS_SELECTOR, "#picture img"), "no answer of another file"
        drop(chromium, frames / "one.png")
        wait_for_text(chromium, "table", "in one.png")
        assert not chromium.find_element(By.ID, "problem").text


def test_nothing_goes_elsewhere_and_nothing_stays(chromium: Chrome, frames: Path) -> None:
    chromium.get_log("performance"), chromium.get_log("browser")
    with open_page(chromium, {"model": Counting()}) as server:
        drop(chromium, frames / "one.png")
        wait_for_text(chromium, "table", "in one.png")
        messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
        addresses = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
        addresses = {address for address in addresses if not address.startswith(("blob:", "data:"))}
        assert len(addresses) > 5
        assert {urlsplit(address).netloc for address in addresses} == {urlsplit(server.address).netloc}
        assert urlsplit(server.address).hostname == "127.0.0.1"
        assert not [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
        assert not chromium.find_elements(By.CSS_SELECTOR, "footer a, button[aria-label*=hare]")
        uploads = Path(os.environ["GRADIO_TEMP_DIR"])
        assert list(uploads.rglob("one.png"))
    assert not uploads.exists()


def test_the_verb(chromium: Chrome, frames: Path, tmp_path: Path) -> None:
    make_student(tmp_path / "student")
    program = [sys.executable, "-m", "scalpel_hf", "app", str(tmp_path / "student"), "--no-browser"]
    process = start(program)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address), process.communicate()
    chromium.get(address)
    wait(chromium, "!!document.querySelector('#file input[type=file]')")
    drop(chromium, frames / "one.png")
    wait_for_text(chromium, "table", "in one.png")
    chromium.get("about:blank")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err.endswith("\ninterrupted\n") and "Traceback" not in err, (out, err)
