"""`evaluate` wrapper of [`IRSTDMetrics`]: `evaluate.load("<path to>/scalpel_hf/evaluation/irstd")`."""

from typing import Any

import datasets
import evaluate

from scalpel_hf.evaluation.irstd_metrics import IRSTDMetrics

DESCRIPTION = "IoU, nIoU, Pd, Fa and F1 of infrared small-target segmentation, at the frames' own size."

INPUTS = """
Args:
    predictions: list of (H, W) foreground probabilities in [0, 1]; sizes may differ from frame to frame.
    references: list of (H, W) masks of the same sizes, 0/1 or 0/255.
    threshold: probability above which a pixel is predicted (0.5).
    distance: largest distance of matching centroids in pixels, exclusive (3.0).
    legacy_fa: false-alarm rate as much published code computes it (False).
Returns:
    iou, niou, pd, f1 in [0, 1]; fa in 1e-6; n_images, n_targets, n_detected, n_false_pixels; the settings.
"""

CITATION = """\
@inproceedings{dai2021asymmetric,
  title={Asymmetric Contextual Modulation for Infrared Small Target Detection},
  author={Dai, Yimian and Wu, Yiquan and Zhou, Fei and Barnard, Kobus},
  booktitle={WACV},
  year={2021}
}
@article{li2022dense,
  title={Dense Nested Attention Network for Infrared Small Target Detection},
  author={Li, Boyang and others},
  journal={IEEE Transactions on Image Processing},
  year={2022}
}
"""


class IRSTD(evaluate.Metric):
    """The metrics of [`IRSTDMetrics`] behind `evaluate`'s `add`, `add_batch` and `compute`."""

    def _info(self) -> evaluate.MetricInfo:
        frame = datasets.Sequence(datasets.Sequence(datasets.Value("float64")))
        mask = datasets.Sequence(datasets.Sequence(datasets.Value("uint8")))
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": frame, "references": mask}),
            reference_urls=["https://arxiv.org/abs/2009.14530", "https://arxiv.org/abs/2106.00487"],
        )

    def _compute(self, *, predictions: Any, references: Any, **settings: Any) -> dict[str, float | int | bool]:
        metrics = IRSTDMetrics(**settings)
        for prob, mask in zip(predictions, references, strict=True):
            metrics.update(prob, mask)
        return metrics.compute()
