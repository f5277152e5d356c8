import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """As ``learn`` sets for small networks: a second thread's wake-up costs more than it computes."""
    torch.set_num_threads(1)
