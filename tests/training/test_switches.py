"""What a recipe switches on in the loop changes what the loop does, and as it should."""

from __future__ import annotations

import math

import pytest
import torch

from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Silence
from mambamed.run.checkpoint import read_checkpoint
from mambamed.run.folder import planned_run
from mambamed.run.workplace import Workplace
from mambamed.training.session import Session
from tests.training.small_run import CONVOLUTIONS, small_recipe
from tests.training.tiny import FP16_SCALE, Undisturbed, tiny_loop, tiny_recipe

PLAIN_SGD = {"name": "sgd", "momentum": 0.0, "lr": 0.5, "weight_decay": 0.0}
CONSTANT = {"name": "constant"}


def weights(loop) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in loop.state.network.parameters()])


def first_step(folder, **training) -> torch.Tensor:
    """How far the weights go in one step."""
    recipe = tiny_recipe(epochs=1, steps_per_epoch=1, schedule=CONSTANT, optimizer=PLAIN_SGD, **training)
    loop = tiny_loop(folder, recipe)
    before = weights(loop)
    loop.go(Undisturbed())
    return weights(loop) - before


def test_a_gradient_is_clipped_to_the_norm_that_the_recipe_says(tmp_path):
    free, cut = first_step(tmp_path / "free", clip=0), first_step(tmp_path / "cut", clip=0.01)
    assert float(free.norm()) > 0.1
    assert float(cut.norm()) == pytest.approx(0.5 * 0.01, rel=1e-3)  # learning rate times the norm
    torch.testing.assert_close(cut / cut.norm(), free / free.norm(), rtol=1e-3, atol=1e-5)


# Fractions t = k / 8 of a schedule of eight steps, by hand.
FORMULAS = {
    "poly": lambda t: (1 - t) ** 0.5,
    "linear": lambda t: 1 - t,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "constant": lambda t: 1.0,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_each_step_is_taken_at_the_rate_of_its_schedule(tmp_path, name):
    schedule = {"name": name, "warmup_steps": 2} | ({"power": 0.5} if name == "poly" else {})
    loop = tiny_loop(
        tmp_path, tiny_recipe(epochs=2, steps_per_epoch=5, schedule=schedule, optimizer=PLAIN_SGD)
    )
    taken, step = [], loop.state.optimizer.step

    def noted(*arguments, **options):
        taken.append(loop.state.optimizer.param_groups[0]["lr"])
        return step(*arguments, **options)

    loop.state.optimizer.step = noted
    loop.go(Undisturbed())
    assert taken == pytest.approx([0.25, 0.5, *(0.5 * FORMULAS[name](k / 8) for k in range(8))])


def test_the_average_of_the_weights_is_what_is_scored_and_kept(tmp_path):
    loop = tiny_loop(tmp_path / "on", tiny_recipe(ema=0.9))
    scored, score = [], loop.patches.validation.score
    loop.patches.validation.score = lambda network, *rest: scored.append(network) or score(network, *rest)
    loop.state.counters.best_score = -1.0
    start = loop.state.network.head.weight.detach().clone()
    loop.go(Undisturbed())
    assert scored == [loop.state.average.network] * 3
    last = read_checkpoint(loop.run.checkpoint(0, "last"))
    average, now = last.part("ema"), last.part("network")
    assert average.keys() == now.keys() and not torch.equal(average["head.weight"], now["head.weight"])
    assert not torch.equal(average["head.weight"], start)
    loop.state.save_validated(tmp_path / "kept.safetensors")
    kept = read_checkpoint(tmp_path / "kept.safetensors").part("network")
    assert all(torch.equal(kept[name], average[name]) for name in average)
    without = tiny_loop(tmp_path / "off", tiny_recipe(ema=0))
    assert without.state.average is None and without.state.validated is without.state.network


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_convolutions_run_in_the_precision_asked_for_and_all_that_is_kept_in_float32(tmp_path, precision):
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    loop = tiny_loop(tmp_path, tiny_recipe(epochs=1, steps_per_epoch=2, ema=0), precision)
    seen = {True: set(), False: set()}
    loop.state.network.first.register_forward_hook(
        lambda module, inputs, output: seen[module.training].add(output.dtype)
    )
    losses, loss = [], loop.run.task.loss
    loop.run.task.loss = lambda outputs, target: losses.append(loss(outputs, target)) or losses[-1]
    loop.go(Undisturbed())
    assert seen == {True: {dtype}, False: {dtype}}  # in training, in validation
    assert {each.dtype for each in losses} == {torch.float32}
    assert {p.dtype for p in loop.state.network.parameters()} == {torch.float32}


def test_fp16_scales_the_loss_up_and_the_gradient_down_again(tmp_path):
    """The steps are those of float32, to the precision of half floats, and clipped as they are."""
    recipe = tiny_recipe(epochs=1, steps_per_epoch=3, schedule=CONSTANT, optimizer=PLAIN_SGD, clip=0.05)
    moves = []
    for precision in ("fp32", "fp16"):
        loop = tiny_loop(tmp_path / precision, recipe, precision)
        before = weights(loop)
        loop.go(Undisturbed())
        moves.append(weights(loop) - before)
    assert loop.state.scaler.is_enabled() and loop.state.scaler.get_scale() == FP16_SCALE
    assert float((moves[0] - moves[1]).norm()) < 0.02 * float(moves[0].norm())


def test_fp16_gradients_that_overflow_are_skipped_with_half_the_scale_and_resumed_with_it(tmp_path):
    recipe = tiny_recipe(epochs=1, steps_per_epoch=4, optimizer=PLAIN_SGD)
    loop = tiny_loop(tmp_path, recipe, "fp16")
    loop.state.scaler.scale(torch.zeros(1))  # it makes its scale at first use
    loop.state.scaler.update(2.0**40)
    loop.go(Undisturbed())
    assert loop.state.counters.skipped == 4 and loop.state.scaler.get_scale() == 2.0**36
    resumed = tiny_loop(tmp_path, recipe, "fp16")
    resumed.state.restore(resumed.run.checkpoint(0, "last"))
    assert resumed.state.scaler.get_scale() == 2.0**36


KINDS = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "radam": torch.optim.RAdam,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_session_makes_what_the_recipe_names(prepared, tmp_path, name):
    """Optimizer, average and scaler; without them, none."""
    dataset = PreparedDataset.open(prepared)
    asked = {"optimizer": {"name": name, "lr": 0.25} | ({"momentum": 0.5} if name == "sgd" else {})}

    def fresh(precision, ema):
        run = planned_run(
            small_recipe(CONVOLUTIONS, ema=ema, **asked), dataset.plan, dataset.manifest, tmp_path
        )
        place = Workplace(torch.device("cpu"), precision, torch.contiguous_format)
        return Session(run, dataset, 0, place, Silence()).fresh_state()

    with_all, without = fresh("fp16", 0.9), fresh("fp32", 0.0)
    assert type(with_all.optimizer) is KINDS[name] and with_all.optimizer.param_groups[0]["lr"] == 0.25
    assert name != "sgd" or with_all.optimizer.param_groups[0]["momentum"] == 0.5
    assert with_all.average is not None and without.average is None
    assert with_all.scaler.is_enabled() and not without.scaler.is_enabled()
