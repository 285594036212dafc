"""LAMB against timm's, and against the paper's formula for the first step."""

import pytest
import torch

from convzoo.training.lamb import Lamb

# Parameters after five steps of timm 1.0.31's Lamb(lr=0.05, eps=1e-6, max_grad_norm=None) from the
# start of `parameters` with the gradients of `five_steps`, float64.
TIMM = {
    "kernel": [
        *(-0.7559757992443139, -0.4216478398640716, -0.1557827437511558, 0.06978860159390061),
        *(-0.0007798344398506003, 0.06772956860273285, 0.33162403856177625, 0.6294274732248637),
        *(1.0089514685491188, 1.3261131539637248, 1.595429824429242, 1.8723999901939954),
    ],
    "bias": [0.5763339174680083, 0.01887773646466827, -0.5535683107807156],
    "zeros": [-0.04306852487593317] * 4,
}


def parameters():
    values = {
        "kernel": torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(3, 4),
        "bias": torch.linspace(0.5, -0.5, 3, dtype=torch.float64),
        "zeros": torch.zeros(2, 2, dtype=torch.float64),
    }
    return {name: torch.nn.Parameter(value) for name, value in values.items()}


def build(values):
    decayed = {"params": [values["kernel"], values["zeros"]], "weight_decay": 0.1}
    return Lamb([decayed, {"params": [values["bias"]]}], lr=0.05)


def test_five_steps_are_timms():
    values = parameters()
    optimizer = build(values)
    for step in range(1, 6):
        values["kernel"].grad = torch.sin(values["kernel"].detach() * step)
        values["bias"].grad = torch.cos(values["bias"].detach() + step)
        # No update in the first step, no weights in the second: the trust ratio is 1 in both.
        values["zeros"].grad = torch.full_like(values["zeros"], 0.01 * step if step > 1 else 0.0)
        optimizer.step()
    for name, expected in TIMM.items():
        assert values[name].flatten().tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_the_first_step_in_closed_form():
    """Both corrected moments give sign(g); the step is |w| / |sign(g) + 0.1 w| times that."""
    values = parameters()
    start = {name: value.detach().clone() for name, value in values.items()}
    for value in values.values():
        value.grad = torch.ones_like(value) * 3
    build(values).step()
    direction = 1 + 0.1 * start["kernel"]
    step = 0.05 * start["kernel"].norm() / direction.norm() * direction
    torch.testing.assert_close(values["kernel"], start["kernel"] - step, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(values["bias"], start["bias"] - 0.05, rtol=1e-6, atol=1e-6)


def test_parameters_without_a_gradient_stay_and_a_closure_is_evaluated():
    values = parameters()
    before = values["bias"].detach().clone()
    optimizer = build(values)

    def loss():
        optimizer.zero_grad()
        total = values["kernel"].square().sum()
        total.backward()
        return total

    first = optimizer.step(loss)
    assert optimizer.step(loss) < first
    assert torch.equal(values["bias"], before)
