import pytest
from torch import nn

from tests.adapter.adapted import BASES


@pytest.fixture(params=BASES, ids=list(BASES))
def base(request: pytest.FixtureRequest) -> nn.Module:
    return BASES[request.param]()
