"""What all tests share: one thread, fixed random numbers, hypothesis without a clock."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("hmq_lab", derandomize=True, deadline=None, database=None)
settings.load_profile("hmq_lab")


@pytest.fixture(autouse=True)
def _seeded():
    """Networks are initialized from torch's global random numbers: the same in every test, in whatever order."""
    torch.manual_seed(0)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
