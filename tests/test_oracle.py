"""The disentangler computes what the authors' published code computed; see oracle/README.md."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kclib.disentangler import Disentangler
from kclib.measures import variance

FILES = sorted((Path(__file__).parent / "oracle").glob("case_*.npz"))


class Case:
    """One recorded case, and a disentangler with its weights."""

    def __init__(self, file: Path):
        with np.load(file) as stored:
            self.numbers = {name: stored[name] for name in stored.files}
        self.x, self.target = self["x"], self["target"]
        self.g = Disentangler(self.x.shape[1], self.target.shape[1], order=2)
        with torch.no_grad():
            for k, linear in enumerate(self.g.linears):
                linear.weight.copy_(self[f"weight{2 - k}"])
            self.g.p_logits.copy_(self["p_logit"].flip(0))

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.numbers[name]).copy())

    def errors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean squared error and the loss, as the paper defines them."""
        mse = (self.g(self.x) - self.target).square().mean()
        return mse, mse + float(self["alpha"]) * self.g.penalty()


def assert_close(found, expected: torch.Tensor, tolerance: float):
    """Compare with a tolerance relative to the largest expected value."""
    found = torch.as_tensor(found, dtype=torch.float64).detach()
    difference = (found - expected.double()).abs().max()
    assert float(difference / expected.double().abs().max()) < tolerance


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def case(request) -> Case:
    return Case(request.param)


def test_the_cases_are_there():
    assert [file.stem for file in FILES] == ["case_small", "case_wide"]


def test_a_case_agrees_with_itself(case):
    assert_close(case["components"].sum(0), case["sum"], 1e-6)
    assert_close(case["sum"], case["output"], 1e-6)


def test_output(case):
    assert_close(case.g(case.x), case["output"], 1e-5)


def test_components(case):
    components = case.g.decompose(case.x)
    for k in range(3):  # one by one: the second order is far smaller than the whole
        assert_close(components[k], case["components"][k], 1e-5)


def test_loss(case):
    mse, loss = case.errors()
    assert_close(mse, case["mse"], 1e-5)
    assert_close(loss, case["loss"], 1e-5)


def test_gradients(case):
    case.errors()[1].backward()
    for k, linear in enumerate(case.g.linears):
        assert_close(linear.weight.grad, case[f"grad_weight{2 - k}"], 1e-5)
    assert_close(case.g.p_logits.grad, case["grad_p_logit"].flip(0), 1e-5)


def test_variances(case):
    with torch.no_grad():
        components = case.g.decompose(case.x)
        residual = case.target - case.g(case.x)
    for part, expected in zip(components, case["var_components"], strict=True):
        assert_close(variance(part), expected, 1e-5)
    assert_close(variance(residual), case["var_residual"], 1e-5)


def test_twenty_steps_of_adam(case):
    optimizer = torch.optim.Adam(
        case.g.parameters(),
        lr=float(case["train_lr"]),
        weight_decay=float(case["train_weight_decay"]),
    )
    found = []
    for _ in case["train_mse"]:
        mse, loss = case.errors()
        found.append(mse.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert len(found) == 20
    relative = torch.tensor(found, dtype=torch.float64) / case["train_mse"].double() - 1
    assert float(relative.abs().max()) < 1e-4
