"""The picture of the review page in the documents: `python -m tests.app.screenshot docs/pictures/review.png`."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

from scalpel_hf.pseudo_labels.rules import Rules
from tests.pseudo_labels.helpers import FakeTeacher

from .browser import headless_chromium
from .runs import make_run
from .test_review_page import page, press


class SpotTeacher(FakeTeacher):
    """Sees what stands out from its surroundings by several standard deviations."""

    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        smooth = ndimage.gaussian_filter(frame.astype(np.float32), 1)
        contrast = smooth - ndimage.gaussian_filter(smooth, 6)
        spread = np.sqrt(ndimage.gaussian_filter(contrast**2, 12)) + 1e-3
        return 1 / (1 + np.exp(8 - 1.6 * contrast / spread))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, headless_chromium(1280, 1000) as chromium:
        run = make_run(Path(folder), frames=40, size=(192, 240), rules=Rules(min_empty=0), teacher=SpotTeacher())
        with page(chromium, run):
            press(chromium, *"aara")
            chromium.save_screenshot(sys.argv[1])
