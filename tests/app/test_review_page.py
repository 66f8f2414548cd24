"""The review page as a person uses it: in a real browser, by keyboard and mouse."""

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.support.ui import WebDriverWait

from scalpel_hf.app.review_page import responder
from scalpel_hf.app.review_session import ReviewSession
from scalpel_hf.app.server import PageServer
from scalpel_hf.data import load_split, read_mask
from scalpel_hf.pseudo_labels.rules import Rules
from tests.app.decisions import read_decisions
from tests.interrupts import start

from .browser import headless_chromium
from .runs import make_run


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chrome]:
    with headless_chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("made"), frames=40, rules=Rules(0.9, min_empty=0.0))


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@contextmanager
def serving(run: Path, reviewer: str = "ada") -> Iterator[PageServer]:
    session = ReviewSession(run, reviewer)
    with PageServer(responder(session)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            session.close()


@contextmanager
def page(chromium: Chrome, run: Path) -> Iterator[PageServer]:
    """The page on its first undecided frame."""
    with serving(run) as server:
        chromium.get(server.address)
        until(chromium, "typeof shown != 'undefined' && !!shown")
        yield server
        chromium.get("about:blank")


def until(chromium: Chrome, condition: str) -> None:
    WebDriverWait(chromium, 20, poll_frequency=0.02).until(
        lambda driver: driver.execute_script(f"return {condition}"), message=condition
    )


def press(chromium: Chrome, *keys: str) -> None:
    """Press keys and wait until the page has dealt with all of them."""
    ActionChains(chromium).send_keys(*keys).perform()
    chromium.execute_async_script("const done = arguments[0]; busy.then(() => done())")


def here(chromium: Chrome) -> str:
    return chromium.execute_script("return queue[at].name")


def pixels(chromium: Chrome) -> int:
    return chromium.execute_script("return shown.mask.pixels.reduce((sum, pixel) => sum + pixel, 0)")


def state(chromium: Chrome) -> str:
    return chromium.find_element("id", "state").text


def places_on_canvas(chromium: Chrome, count: int) -> list[tuple[float, float]]:
    """Points on a line across the frame, in the window's coordinates."""
    left, top, width, height = chromium.execute_script(
        "const {left, top, width, height} = canvas.getBoundingClientRect(); return [left, top, width, height]"
    )
    return [(left + width * (0.4 + 0.2 * i / count), top + height * (0.4 + 0.2 * i / count)) for i in range(count)]


def mouse(chromium: Chrome, kind: str, place: tuple[float, float], button: str = "none", buttons: int = 0) -> None:
    event = {"type": kind, "x": place[0], "y": place[1], "button": button, "buttons": buttons, "clickCount": 1}
    chromium.execute_cdp_cmd("Input.dispatchMouseEvent", event)


def touch(chromium: Chrome, kind: str, *places: tuple[float, float]) -> None:
    points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
    chromium.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def replace_fetch(chromium: Chrome, condition: str, answer: str) -> None:
    """Until `fetch = real`: requests whose `path` fulfils the condition get another answer."""
    chromium.execute_script(
        f"real = fetch; fetch = async (path, ...rest) => {condition} ? {answer} : real(path, ...rest)"
    )


def label(run: Path, name: str) -> np.ndarray:
    row = next(row for row in load_split(run, "train") if row["name"] == name)
    assert row["label_source"] == "human" and row["review"]["by"] == "ada"
    return read_mask(row["mask"]) > 0


def test_accept_reject_next_and_undo(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        names = chromium.execute_script("return queue.map((frame) => frame.name)")
        press(chromium, "a")
        assert {n: d.decision for n, d in read_decisions(run).items()} == {names[0]: "accept"}, "at once on disk"
        press(chromium, "r", "n", Keys.ENTER)
        said = {n: d.decision for n, d in read_decisions(run).items()}
        assert said == {names[0]: "accept", names[1]: "reject", names[3]: "accept"}
        assert not label(run, names[1]).any()
        assert here(chromium) == names[4]
        press(chromium, "u", "u")
        assert list(read_decisions(run)) == [names[0]] and here(chromium) == names[1]
        press(chromium, Keys.ARROW_LEFT)
        assert here(chromium) == names[0] and chromium.find_element("id", "state").text == "accepted"


def test_undo_of_a_mistake_restores_the_mended_mask(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        name = here(chromium)
        press(chromium, "m", " ", "a")
        mended = read_decisions(run)[name]
        press(chromium, Keys.ARROW_LEFT, "r", "u")
        assert read_decisions(run) == {name: mended} and here(chromium) == name
        assert chromium.find_element("id", "state").text == "mended"
        assert chromium.execute_script("return shown.mask.runs()") == list(mended.runs)
        press(chromium, "u")
        assert not read_decisions(run)


def test_closed_and_opened_again_it_goes_on(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        press(chromium, "a", "r")
    with page(chromium, run):
        assert chromium.execute_script("return at") == 2
        assert chromium.find_element("id", "progress").text.startswith("3 of ")


def test_mending_by_keyboard(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        name = here(chromium)
        press(chromium, "c", "m", "[", "[")
        chromium.execute_script("cursor = {x: 5, y: 7}; if (shown.mask.pixels.includes(1)) shown.mask.pixels.fill(0)")
        press(chromium, " ", Keys.ARROW_RIGHT, " ", Keys.ARROW_DOWN, " ")
        press(chromium, Keys.SHIFT + Keys.ARROW_DOWN + Keys.NULL, " ", "x")
        press(chromium, Keys.ENTER)
        assert read_decisions(run)[name].decision == "mend"
        assert np.argwhere(label(run, name)).tolist() == [[7, 5], [7, 6], [8, 6]]


def test_mending_with_the_mouse(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        name = here(chromium)
        press(chromium, "[", "[")
        before = chromium.execute_script("return [...shown.mask.pixels]")
        canvas = chromium.find_element("id", "canvas")
        middle = chromium.execute_script(
            "const box = canvas.getBoundingClientRect();"
            "return [3, 9].map((x) => [(view.x + (x + 0.5) * view.scale) - box.width / 2,"
            " (view.y + 4.5 * view.scale) - box.height / 2])"
        )
        (x0, y0), (x1, y1) = ((round(x), round(y)) for x, y in middle)
        drag = ActionChains(chromium).move_to_element_with_offset(canvas, x0, y0).click_and_hold()
        drag.move_by_offset(x1 - x0, y1 - y0).release().perform()
        press(chromium, "a")
        mask = np.array(before, bool).reshape(32, 40)
        mask[4, 3:10] = True
        assert np.array_equal(label(run, name), mask)


def test_a_drag_ends_with_its_frame(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        name, canvas = here(chromium), chromium.find_element("id", "canvas")
        ActionChains(chromium).move_to_element(canvas).click_and_hold().perform()
        press(chromium, "a")
        before = chromium.execute_script("return shown.mask.runs()")
        ActionChains(chromium).move_by_offset(60, 60).release().perform()
        assert here(chromium) != name and chromium.execute_script("return shown.mask.runs()") == before


def test_a_stroke_is_undone_and_unsaved_ones_are_not_lost_unasked(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        name, before = here(chromium), chromium.execute_script("return shown.mask.runs()")
        press(chromium, "m", " ", Keys.ESCAPE, "n")
        assert here(chromium) == name and "not saved" in chromium.find_element("id", "state").text
        press(chromium, "z")
        assert chromium.execute_script("return shown.mask.runs()") == before
        press(chromium, "m", " ", Keys.ESCAPE, "n", "n")
        assert here(chromium) != name and not read_decisions(run)


def test_undo_drops_unsaved_strokes_only_when_asked_twice(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        press(chromium, "a")
        said, name = read_decisions(run), here(chromium)
        press(chromium, "m", " ", "u")
        assert read_decisions(run) == said and here(chromium) == name
        assert chromium.execute_script("return strokes.length") == 1
        assert "not saved" in chromium.find_element("id", "state").text
        press(chromium, "u")
        assert not read_decisions(run) and here(chromium) != name


@pytest.mark.parametrize(
    ("before", "key"),
    [([], "a"), ([], "r"), ([], "Enter"), (["m"], "a"), (["a", "a"], "u"), (["g", Keys.ARROW_RIGHT, " "], "Enter")],
)
def test_a_key_that_is_held_decides_once(chromium: Chrome, run: Path, before: list[str], key: str) -> None:
    def hold(repeated: bool) -> None:
        event = {"type": "keyDown", "key": key, "autoRepeat": repeated}
        chromium.execute_cdp_cmd("Input.dispatchKeyEvent", event)
        press(chromium, "h")

    with page(chromium, run):
        press(chromium, *before)
        hold(repeated=False)
        once = read_decisions(run)
        hold(repeated=True)
        assert once and read_decisions(run) == once


def test_empty_frames_a_page_at_a_time(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        empty = chromium.execute_script("return queue.filter((frame) => frame.empty).map((frame) => frame.name)")
        assert len(empty) > 3
        press(chromium, "g", Keys.ARROW_RIGHT, " ", Keys.ENTER)
        said = read_decisions(run)
        assert list(said) == [empty[0], *empty[2:24]] and {d.decision for d in said.values()} == {"accept"}
        assert not any(d.runs for d in said.values())
        press(chromium, "u")
        assert not read_decisions(run)
        press(chromium, "g")
        assert chromium.execute_script("return grid === null && !!shown")


def test_nothing_goes_elsewhere_and_nothing_is_wrong_in_the_page(chromium: Chrome, run: Path) -> None:
    chromium.get_log("performance"), chromium.get_log("browser")
    with page(chromium, run) as server:
        press(chromium, "t", "h", Keys.TAB, "+", "-", "0", "g", "g", "a")
        messages = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
        addresses = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
        addresses = {address for address in addresses if not address.startswith(("blob:", "data:"))}
        assert len(addresses) > 5
        assert {urlsplit(address).netloc for address in addresses} == {f"127.0.0.1:{server.server_address[1]}"}
        assert chromium.get_log("browser") == []


def test_without_the_token_the_page_shows_nothing(chromium: Chrome, run: Path) -> None:
    with serving(run) as server:
        chromium.get(server.address.split("#")[0])
        until(chromium, "document.getElementById('state').className === 'problem'")
        assert "open the address" in chromium.find_element("id", "state").text


def test_the_program_killed_and_started_again(chromium: Chrome, run: Path) -> None:
    program = [sys.executable, "-m", "scalpel_hf", "review", str(run), "--reviewer", "ada", "--no-browser"]
    for decided, end in ((0, signal.SIGKILL), (1, signal.SIGINT)):
        process = start(program)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        assert f" {decided} of them decided; you are ada" in lines[1]
        chromium.get(lines[2])
        until(chromium, "typeof shown != 'undefined' && !!shown")
        press(chromium, "r")
        process.send_signal(end)
        said = process.communicate(timeout=20)
        press(chromium, "r")
        assert "not running" in chromium.find_element("id", "state").text
        chromium.get("about:blank")
    assert process.returncode == 130 and "2 frames are decided" in said[0]
    assert [d.decision for d in read_decisions(run).values()] == ["reject", "reject"]


def test_what_fails_is_said_and_done_when_asked_again(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        names = chromium.execute_script("return queue.map((frame) => frame.name)")
        press(chromium, "a", "a")
        replace_fetch(chromium, "true", "Promise.reject(new Error())")
        press(chromium, "u")
        assert "not running" in state(chromium)
        chromium.execute_script("fetch = real")
        press(chromium, "u")
        assert list(read_decisions(run)) == [names[0]] and here(chromium) == names[1]

        replace_fetch(chromium, "path.includes('confidence')", "new Response('no prediction', {status: 422})")
        press(chromium, "t")
        assert state(chromium) == "no prediction" and not chromium.execute_script("return soft")
        chromium.execute_script("soft = true")
        press(chromium, "n")
        assert state(chromium) == "no prediction" and not chromium.execute_script("return soft")
        assert here(chromium) == names[2] and chromium.execute_script("return !!shown")
        chromium.execute_script("fetch = real; history = []")
        press(chromium, "t")
        assert state(chromium) == "undecided" and chromium.execute_script("return soft && !!shown.soft")

        chromium.execute_script("queue = []; shown = null")
        press(chromium, "n", "u")
        assert "nothing to review" in state(chromium)


def test_what_is_seen_is_what_is_saved(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        name, points = here(chromium), places_on_canvas(chromium, 4)
        before = chromium.execute_script("return shown.mask.runs()")
        mouse(chromium, "mousePressed", points[0], "left", 1)
        mouse(chromium, "mouseMoved", points[1], "left", 1)
        press(chromium, "z")
        mouse(chromium, "mouseMoved", points[3], "left", 1)
        mouse(chromium, "mouseReleased", points[3], "left")
        assert chromium.execute_script("return shown.mask.runs()") == before and state(chromium) == "undecided"
        press(chromium, "c", "c", "a")
        assert read_decisions(run)[name].decision == "accept", "the teacher's label again"
        assert read_decisions(run)[name].runs == tuple(before)

        name = here(chromium)
        replace_fetch(chromium, "path == '/api/decide'", "new Promise((go) => resume = () => go(real(path, ...rest)))")
        ActionChains(chromium).send_keys("a").perform()
        until(chromium, "typeof resume != 'undefined'")
        mouse(chromium, "mousePressed", points[0], "left", 1)
        mouse(chromium, "mouseReleased", points[0], "left")
        assert chromium.execute_script("return strokes.length") == 0, "a stroke would be lost with the frame"
        chromium.execute_script("fetch = real; resume()")
        press(chromium, "h")
        assert read_decisions(run)[name].decision == "accept"


def test_fingers_and_buttons(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        points = places_on_canvas(chromium, 12)
        press(chromium, "[", "[")
        before = pixels(chromium)
        mouse(chromium, "mousePressed", points[0], "forward", 16)
        mouse(chromium, "mouseReleased", points[0], "forward")
        assert pixels(chromium) == before and state(chromium) == "undecided"

        chromium.execute_script("events = []; canvas.addEventListener('pointercancel', () => events.push('cancel'))")
        inside = (
            "return shown.mask.get(...(({x, y}) => [x, y])(view.pixel({clientX: arguments[0], clientY: arguments[1]})))"
        )
        touch(chromium, "touchStart", points[0])
        for point in points[1:]:
            touch(chromium, "touchMove", point)
        touch(chromium, "touchEnd")
        assert chromium.execute_script("return events") == []
        assert all(chromium.execute_script(inside, *point) for point in points)
        drawn = pixels(chromium)
        far = [(x + 40, y - 40) for x, y in points]
        for end in ("", "drag = {value: 1, last: {x: 0, y: 0}}"):  # a drag whose end the page wasn't told
            chromium.execute_script(end)
            for point in far:
                mouse(chromium, "mouseMoved", point)
            assert pixels(chromium) == drawn, "no button is pressed"

        touch(chromium, "touchStart", points[0])
        touch(chromium, "touchStart", points[0], far[0])
        touch(chromium, "touchMove", points[0], far[5])
        touch(chromium, "touchEnd")
        assert pixels(chromium) == drawn, "the second finger draws nothing"
        touch(chromium, "touchStart", points[0])
        touch(chromium, "touchCancel")
        assert chromium.execute_script("return drag") is None
        chromium.execute_script("strokes = []")


def test_two_tabs(chromium: Chrome, run: Path) -> None:
    with page(chromium, run) as server:
        first, name = chromium.current_window_handle, here(chromium)
        chromium.switch_to.new_window("tab")
        chromium.get(server.address)
        until(chromium, "typeof shown != 'undefined' && !!shown")
        press(chromium, "m", " ", "x", " ", "c", "m", " ", "a")
        mended = read_decisions(run)[name]
        chromium.switch_to.window(first)
        press(chromium, "a")
        assert read_decisions(run)[name] == mended
        assert "another tab" in state(chromium) and name in state(chromium) and here(chromium) == name
        assert chromium.execute_script("return shown.mask.runs()") == list(mended.runs)
        press(chromium, "r")
        assert read_decisions(run)[name].decision == "reject", "once it was seen"

        (second,) = {*chromium.window_handles} - {first}
        chromium.switch_to.window(second)
        name = here(chromium)
        press(chromium, "a")
        chromium.switch_to.window(first)
        press(chromium, "m", " ", "a")
        assert "another tab" in state(chromium) and read_decisions(run)[name].decision == "accept"
        assert chromium.execute_script("return strokes.length") == 1, "a stroke is not lost"
        press(chromium, "a")
        assert read_decisions(run)[name].decision == "mend"

        chromium.switch_to.window(second)
        press(chromium, "g")
        chromium.switch_to.window(first)
        press(chromium, "g", Keys.ENTER)
        said = read_decisions(run)
        chromium.switch_to.window(second)
        press(chromium, Keys.ENTER)
        assert "another tab" in state(chromium) and read_decisions(run) == said
        chromium.close()
        chromium.switch_to.window(first)


def test_without_a_mouse_or_a_wide_window_or_latin_letters(chromium: Chrome, run: Path) -> None:
    with page(chromium, run):
        for width in (320, 640, 1280):
            device = {"width": width, "height": 700, "deviceScaleFactor": 1, "mobile": False}
            chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", device)
            until(chromium, f"innerWidth === {width} && canvas.width > 200")
            box = chromium.execute_script(
                "const {width, height} = canvas.getBoundingClientRect(); return [width, height]"
            )
            assert min(box) > 200 and chromium.execute_script("return document.documentElement.scrollWidth") <= width
        chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

        chromium.execute_script("shown.objects.bbox = [[3, 3, 2, 2], [20, 9, 3, 3]]")
        focus = "return [object, document.activeElement.id]"
        press(chromium, Keys.TAB, Keys.TAB)
        ActionChains(chromium).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
        assert chromium.execute_script(focus) == [0, ""]
        press(chromium, Keys.TAB, Keys.TAB)
        assert chromium.execute_script(focus) == [-1, "canvas"], "past the last object"
        assert chromium.execute_script("return getComputedStyle(canvas).outlineStyle") == "solid"
        press(chromium, Keys.TAB, Keys.TAB, Keys.TAB)
        assert chromium.execute_script("return document.activeElement.id") != "canvas"

        name = here(chromium)
        for key, code in (("х", "BracketLeft"), ("Ф", "KeyA")):
            chromium.execute_script(f"dispatchEvent(new KeyboardEvent('keydown', {{key: '{key}', code: '{code}'}}))")
        press(chromium, "h")
        assert list(read_decisions(run)) == [name] and chromium.execute_script("return size") == 2

        press(chromium, "g", Keys.ARROW_RIGHT, " ")
        boxes = chromium.execute_script(
            "return grid.cells.slice(0, 2).map((cell) => [cell.getAttribute('role'), cell.getAttribute('aria-checked'),"
            " cell.tabIndex, cell.getAttribute('aria-label'), cell.querySelector('img').alt])"
        )
        names = chromium.execute_script("return grid.places.map((place) => queue[place].name)")
        assert boxes[0] == ["checkbox", "true", -1, names[0], names[0]]
        assert boxes[1] == ["checkbox", "false", 0, names[1], names[1]]
        assert chromium.execute_script("return document.activeElement === grid.cells[1]")
        press(chromium, Keys.TAB)
        assert not chromium.execute_script("return document.activeElement === grid.cells[1]")


@pytest.mark.slow
def test_a_thousand_frames_are_quick(chromium: Chrome, tmp_path: Path) -> None:
    run = make_run(tmp_path, frames=1340, size=(256, 256), rules=Rules(0.9, min_empty=0.0))
    start = time.perf_counter()
    with page(chromium, run):
        print(f"first frame after {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        for _ in range(5):
            press(chromium, *"aaaaaaaaaa", *"nnnnnnnnnn")
        print(f"{10 * (time.perf_counter() - start):.0f} ms a frame")
        assert len(read_decisions(run)) == 50
        assert time.perf_counter() - start < 60
