"""The picture of the model's page in the documents, with the notebook's teacher and student.

`python -m tests.app.screenshot_model first-steps docs/pictures/app.png`, where the notebook was run.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium.webdriver.common.by import By

from scalpel_hf import SyntheticInfrared
from scalpel_hf.predictors.load import load_predictor

from .browser import headless_chromium
from .test_model_page import drop, open_page, wait, wait_for_text

if __name__ == "__main__":
    run, picture = map(Path, sys.argv[1:])
    models = {who: load_predictor(run / who) for who in ("student", "teacher")}
    camera = SyntheticInfrared((128, 160), n_targets=(3, 3), extent=(2, 6), snr=(6, 12), bit_depth=16, seed=9)
    with tempfile.TemporaryDirectory() as folder, headless_chromium(1280, 1640) as chromium:
        frame = Path(folder) / "frame-16-bit.png"
        Image.fromarray(camera.frame(2)["image"]).save(frame)
        with open_page(chromium, models):
            drop(chromium, frame)
            wait_for_text(chromium, "table", frame.name)
            chromium.find_element(By.CSS_SELECTOR, "#who input[value=teacher]").click()
            wait(chromium, "[...document.querySelectorAll('#routers img')].filter((i) => i.complete).length >= 4")
            chromium.save_screenshot(str(picture))
    Image.open(picture).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE).save(picture, optimize=True)
