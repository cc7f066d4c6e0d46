"""No more threads than cores are free."""

import psutil
import pytest
import torch

from kclib.report.threads import on_free_cores


@pytest.fixture
def of_eight(monkeypatch):
    """Eight threads on eight cores; yields what sets how many of them others use."""
    before = torch.get_num_threads()
    monkeypatch.setattr(psutil, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torch.set_num_threads(8)
    yield lambda cores: monkeypatch.setattr(psutil, "cpu_percent", lambda _: 100 * cores / 8)
    torch.set_num_threads(before)


@pytest.mark.parametrize(("taken", "threads"), [(0.3, 8), (1.0, 7), (6.8, 1), (8.0, 1)])
def test_cores_of_others_are_left_to_them(of_eight, taken, threads):
    of_eight(taken)
    told = []
    with on_free_cores(told.append):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 8
    assert len(told) == (threads < 8)
    assert all(f"{threads} thread" in line for line in told)


def test_threads_come_back_after_an_error(of_eight):
    of_eight(3)
    with pytest.raises(KeyError), on_free_cores(lambda _: None):
        raise KeyError
    assert torch.get_num_threads() == 8


def test_who_says_how_many_gets_them(of_eight, monkeypatch):
    of_eight(6)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    with on_free_cores(pytest.fail):
        assert torch.get_num_threads() == 8


def test_one_thread_stays_one(of_eight):
    of_eight(8)
    torch.set_num_threads(1)
    with on_free_cores(pytest.fail):
        assert torch.get_num_threads() == 1
