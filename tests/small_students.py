"""Small students of this project's own, and small configurations of transformers' models, such as a user may have."""

import torch
from transformers import (
    DFineConfig,
    HGNetV2Config,
    PreTrainedConfig,
    RTDetrResNetConfig,
    RTDetrV2Config,
    SegformerConfig,
    YolosConfig,
)

from scalpel_hf import (
    DetectionStudent,
    InfraredImageProcessor,
    ScalpelStudentConfig,
    ScalpelStudentForObjectDetection,
    ScalpelStudentForSemanticSegmentation,
    SegmentationStudent,
)
from scalpel_hf.modeling.configuration_scalpel_student import ScalpelStudentDetectionConfig

STAGES = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
OUT = ["stage2", "stage3", "stage4"]
DETR = {
    "encoder_hidden_dim": 16,
    "encoder_ffn_dim": 16,
    "encoder_in_channels": [8, 16, 16],
    "encoder_attention_heads": 2,
    "d_model": 16,
    "num_queries": 20,
    "decoder_in_channels": [16, 16, 16],
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_denoising": 5,
}


def segformer(**kwargs: object) -> PreTrainedConfig:
    return SegformerConfig(
        depths=[1] * 4,
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        **kwargs,
    )


def yolos() -> PreTrainedConfig:
    return YolosConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[64, 64],
        num_detection_tokens=10,
    )


def rt_detr_v2() -> PreTrainedConfig:
    return RTDetrV2Config(backbone_config=RTDetrResNetConfig(**STAGES, layer_type="basic", out_features=OUT), **DETR)


def d_fine() -> PreTrainedConfig:
    backbone = HGNetV2Config(
        **STAGES,
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 8, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=OUT,
    )
    return DFineConfig(backbone_config=backbone, **DETR)


SEGMENTERS = {"segformer": segformer}
DETECTORS = {"yolos": yolos, "rt_detr_v2": rt_detr_v2, "d_fine": d_fine}


def small_student(normalization: str = "zscore", full_resolution_channels: int = 0) -> SegmentationStudent:
    """Its logits vary over the frame; a fresh student's hardly do."""
    torch.manual_seed(0)
    config = ScalpelStudentConfig(hidden_sizes=(8, 8), depths=(1, 0), full_resolution_channels=full_resolution_channels)
    model = ScalpelStudentForSemanticSegmentation(config)
    with torch.no_grad():
        model.classifier.weight.normal_(std=0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(std=0.3)
                module.bias.normal_(std=0.3)
    return SegmentationStudent(model.eval(), InfraredImageProcessor(normalization=normalization))


def small_detector(bias: float = -1.0, full_resolution_channels: int = 0) -> DetectionStudent:
    """Its maps vary over the frame; `bias` is that of the heat-map."""
    torch.manual_seed(0)
    config = ScalpelStudentDetectionConfig(
        hidden_sizes=(8, 8), depths=(1, 0), num_queries=20, full_resolution_channels=full_resolution_channels
    )
    model = ScalpelStudentForObjectDetection(config)
    with torch.no_grad():
        model.head[1].weight.normal_(std=0.05)
        model.head[1].bias[: model.cell**2] = bias
    return DetectionStudent(model.eval(), InfraredImageProcessor())
