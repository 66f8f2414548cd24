"""The operators leave Python: torch.export, ONNX, torch.compile, each at sizes other than the one it was traced at."""

import shutil
import warnings

import pytest
import torch
from torch import Tensor, nn

from scalpel_hf.modeling.operators import AnisotropicDiffusion, LocalContrast, MatchedFilter, TopHat

SIZES = [(1, 1, 33, 61), (3, 1, 64, 48)]


class AllFour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        operators = (LocalContrast([3]), TopHat([2]), MatchedFilter([1.5]), AnisotropicDiffusion([2]))
        self.operators = nn.ModuleList(operators)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([operator(x) for operator in self.operators], 2)


def dynamic_shapes() -> tuple[dict[int, object], ...]:
    return ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)


def assert_same_at_other_sizes(run) -> None:
    model = AllFour()
    for size in SIZES:
        x = torch.randn(size, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(run(x), model(x).detach(), rtol=1e-5, atol=2e-6)


def run_onnx(path) -> object:
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def test_torch_export():
    program = torch.export.export(AllFour(), (torch.randn(2, 1, 40, 44),), dynamic_shapes=dynamic_shapes())
    assert_same_at_other_sizes(lambda x: program.module()(x).detach())


def test_onnx(tmp_path):
    pytest.importorskip("onnx")
    path = tmp_path / "operators.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the legacy exporter warns of itself and of every size it reads
        torch.onnx.export(
            AllFour().eval(),
            (torch.randn(2, 1, 40, 44),),
            str(path),
            dynamo=False,
            opset_version=18,
            input_names=["x"],
            dynamic_axes={"x": {0: "batch", 2: "height", 3: "width"}},
        )
    assert_same_at_other_sizes(run_onnx(path))


@pytest.mark.slow
def test_onnx_by_torch_export(tmp_path):
    pytest.importorskip("onnxscript")
    path = tmp_path / "operators.onnx"
    torch.onnx.export(
        AllFour().eval(), (torch.randn(2, 1, 40, 44),), str(path), dynamo=True, dynamic_shapes=dynamic_shapes()
    )
    assert_same_at_other_sizes(run_onnx(path))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_torch_compile():
    model = AllFour()
    compiled = torch.compile(model, dynamic=True, fullgraph=True)
    assert_same_at_other_sizes(lambda x: compiled(x).detach())

    x = torch.randn(1, 1, 33, 61)
    compiled(x).sum().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)
