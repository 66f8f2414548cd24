"""The contract with peft that `scalpel_hf.registration` relies on; a failure here names what a release changed."""

import inspect
import subprocess
import sys

import peft.mapping
import pytest
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer

from scalpel_hf.adapter import ScalpelMoeConfig, ScalpelMoeModel
from scalpel_hf.adapter.config import ScalpelPeftType


def test_pefts_mappings_are_dicts_that_take_our_type() -> None:
    key = ScalpelPeftType.SCALPEL_MOE
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[key] is ScalpelMoeConfig
    assert peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING[key] is ScalpelMoeModel
    assert peft.mapping.PEFT_TYPE_TO_PREFIX_MAPPING[key] == "scalpel_moe_"
    assert peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING["SCALPEL_MOE"] is ScalpelMoeConfig  # as read from JSON


def test_what_is_overridden_exists() -> None:
    for name in (
        "_prepare_adapter_config",
        "_create_and_replace",
        "_replace_module",
        "_post_injection_hook",
        "_get_module_names_tied_with_embedding",
        "_unload_and_optionally_merge",
        "_remove_adapter_name_from_key",
    ):
        assert callable(getattr(BaseTuner, name)), f"peft's BaseTuner no longer has {name}"
    assert list(inspect.signature(BaseTuner._remove_adapter_name_from_key).parameters) == ["key", "adapter_name"]
    for name in (
        "set_adapter",
        "active_adapters",
        "disable_adapters",
        "other_param_names",
        "_move_adapter_to_device_of_base_layer",
    ):
        assert hasattr(BaseTunerLayer, name), f"peft's BaseTunerLayer no longer has {name}"
    assert "base_model_name_or_path" in inspect.signature(PeftConfig).parameters


PEFT = "assert 'SCALPEL_MOE' in peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING"
TASK = (
    "from transformers.pipelines import PIPELINE_REGISTRY as registry; "
    "assert 'infrared-small-target-detection' in registry.supported_tasks"
)
STUDENT = "from transformers import AutoModel; AutoModel.from_config(scalpel_hf.ScalpelStudentConfig())"
IMPORTS = {
    "light": "import sys, scalpel_hf; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)",
    "before peft": f"import scalpel_hf, peft; {PEFT}",
    "last": f"import peft, transformers.pipelines, scalpel_hf; {PEFT}; {TASK}",
    "adapter first": f"from scalpel_hf import ScalpelMoeConfig; import peft; {PEFT}",
    "pipelines first": f"from scalpel_hf.pipelines import InfraredModel; {TASK}",
    "before configs": "import scalpel_hf; from transformers import AutoConfig; AutoConfig.for_model('mobile_sam')",
    "before models": f"import scalpel_hf; from transformers import SegformerForSemanticSegmentation; {STUDENT}",
    "before any model": f"import scalpel_hf; from transformers import PreTrainedModel; {STUDENT}",
}


@pytest.mark.parametrize("code", IMPORTS.values(), ids=IMPORTS)
def test_importing_the_package_is_light_and_registers_in_any_order(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
