"""Optimizers and the moving average, against torch and by hand."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import nn

from mambamed.recipe import Optimizer
from mambamed.training.optimize import (
    OPTIMIZERS,
    RunningStatistics,
    WeightAverage,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)
from tests.training.tiny import TinyNet

NAMES = ["adam", "adamw", "sgd", "radam"]
KINDS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "radam": torch.optim.RAdam,
}


def step(network, optimizer, seed):
    torch.manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_that_optimizer(name):
    network = TinyNet()
    twin = copy.deepcopy(network)
    ours = make_optimizer(network, Optimizer(name=name, lr=0.01, weight_decay=0))
    options = {"momentum": 0.99, "nesterov": True} if name == "sgd" else {}
    theirs = KINDS[name](twin.parameters(), lr=0.01, weight_decay=0, **options)
    for seed in range(8):
        step(network, ours, seed)
        step(twin, theirs, seed)
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_weight_decay_spares_vectors_and_what_the_network_marks():
    network = TinyNet()
    network.A_log = nn.Parameter(torch.ones(3, 3))
    network.A_log._no_weight_decay = True
    optimizer = make_optimizer(network, Optimizer(name="adamw", lr=0.1, weight_decay=0.5))
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        factor = 0.95 if name.endswith("weight") and parameter.ndim > 1 else 1.0  # 1 - lr * decay
        torch.testing.assert_close(parameter.detach(), factor * before[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_restored_optimizer_goes_on_bit_by_bit(name, layout):
    network = TinyNet().to(memory_format=layout)
    settings = Optimizer(name=name, lr=0.01)
    optimizer = make_optimizer(network, settings)
    for seed in range(3):
        step(network, optimizer, seed)
    twin = copy.deepcopy(network)
    other = make_optimizer(twin, settings)
    tensors = {n: t.clone().contiguous() for n, t in optimizer_tensors(network, optimizer).items()}
    restore_optimizer(twin, other, tensors)
    for seed in range(3, 7):
        step(network, optimizer, seed)
        step(twin, other, seed)
    for a, b in zip(network.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_average_follows_the_formula():
    network = nn.Linear(2, 1, bias=False)
    average = WeightAverage(network, decay=0.5)
    expected = network.weight.detach().clone()
    for t in range(12):
        with torch.no_grad():
            network.weight.add_(1.0)
        average.update(network, t)
        decay = min(0.5, (1 + t) / (10 + t))  # 0.1, 2/11, 3/12, 4/13, ..., 8/17, and 0.5 from there on
        expected = decay * expected + (1 - decay) * network.weight.detach()
        torch.testing.assert_close(average.network.weight, expected)


def test_the_average_takes_running_statistics_too_and_copies_counts():
    network = TinyNet().train()
    average = WeightAverage(network, decay=0.0)
    network(torch.randn(2, 1, 4, 4, 4))
    average.update(network, 0)
    torch.testing.assert_close(average.network.norm.running_mean, network.norm.running_mean)
    assert int(average.network.norm.num_batches_tracked) == 1


def test_a_module_used_twice_is_averaged_once():
    layer = nn.Linear(1, 1, bias=False)
    network = nn.Sequential(layer, layer)
    average = WeightAverage(network, decay=0.5)
    start = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.add_(1.0)
    average.update(network, 100)
    torch.testing.assert_close(average.network[0].weight, start + 0.5)
    assert average.network[0] is average.network[1]


def test_statistics_that_are_put_back_are_what_they_were():
    network = TinyNet().train()
    statistics = RunningStatistics(network)
    statistics.keep()
    before = network.norm.running_var.clone()
    network(torch.full((2, 1, 4, 4, 4), float("nan")))
    assert torch.isnan(network.norm.running_var).all()
    statistics.put_back()
    assert torch.equal(network.norm.running_var, before) and int(network.norm.num_batches_tracked) == 0


def test_every_optimizer_of_the_recipe_is_a_line_of_the_table() -> None:
    names = get_args(Optimizer.model_fields["name"].annotation)
    assert set(OPTIMIZERS) == set(names) == set(KINDS)
