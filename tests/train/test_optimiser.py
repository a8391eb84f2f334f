"""Learning rate, decay groups and the moving average, against closed forms."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from dualforce_model.train.config import OptimiserConfig
from dualforce_model.train.optimiser import Ema, adamw, learning_rate

CONFIG = OptimiserConfig(lr=1e-3, final_lr=0.1, warmup=10)


def test_the_rate_rises_linearly_and_falls_as_half_a_cosine():
    trace = [learning_rate(CONFIG, step, 110) for step in range(110)]
    assert trace[:10] == pytest.approx([1e-4 * (s + 1) for s in range(10)])
    assert trace[10] == pytest.approx(1e-3)
    assert trace[-1] == pytest.approx(1e-4)
    assert all(a > b for a, b in pairwise(trace[10:]))
    assert trace[10] + trace[-1] == pytest.approx(trace[40] + trace[79])  # a cosine is odd around its middle


def test_a_run_that_is_all_warm_up_has_a_rate():
    assert learning_rate(CONFIG, 4, 5) == pytest.approx(5e-4)


def test_norms_biases_and_tables_do_not_decay():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(3, 4), nn.LayerNorm(4)
            self.table = nn.Parameter(torch.zeros(6, 4))

    net = Net()
    decaying, others = adamw(net, CONFIG).param_groups
    assert [id(p) for p in decaying["params"]] == [id(net.linear.weight)]
    assert len(others["params"]) == 4
    assert others["weight_decay"] == 0


def test_the_moving_average_forgets_the_start_and_then_averages():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    ema, expected = Ema(net, 0.5), 1.0
    for step in range(20):
        nn.init.constant_(net.weight, float(step))
        ema.update(net, step)
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * step
    assert ema.weights["weight"].item() == pytest.approx(expected, rel=1e-5)
