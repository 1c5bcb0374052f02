"""torch.compile of the training step: chosen by measurement, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from mambamed.run.checkpoint import read_checkpoint
from mambamed.run.folder import Run
from mambamed.run.workplace import Workplace
from mambamed.training import compiling, train
from mambamed.training.compiling import cache_file, choose_compile, step_seconds
from tests.training.small_run import CONVOLUTIONS, small_recipe
from tests.training.tiny import TinyNet, Undisturbed, tiny_loop, tiny_recipe

PLACE = Workplace(torch.device("cpu"), "fp32", torch.contiguous_format)
SHAPE = (2, 1, 8, 8, 8)


@pytest.fixture
def timings(monkeypatch, tmp_path):
    """Seconds (without, with) that a measurement is to find; how often it was made."""
    found = {"plain": 1.0, "compiled": 0.5, "count": 0}

    def measured(network, shape, place, compiled):
        found["count"] += 1
        answer = found["compiled" if compiled else "plain"]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(compiling, "step_seconds", measured)
    return found


def test_what_wins_is_measured_once_and_remembered(timings):
    network = TinyNet()
    on, line = choose_compile("auto", network, SHAPE, PLACE)
    assert on and timings["count"] == 2
    assert line.startswith("compile on: 0.500 s a step with it, 1.000 without")
    again, line = choose_compile("auto", network, SHAPE, PLACE)
    assert again and timings["count"] == 2 and line.endswith("measured before")
    timings["compiled"] = 0.97  # another patch; three per cent are not worth the wait
    on, line = choose_compile("auto", network, (2, 1, 16, 8, 8), PLACE)
    assert not on and timings["count"] == 4 and line.startswith("compile off")
    cache_file().write_text("[1")
    choose_compile("auto", network, SHAPE, PLACE)
    assert timings["count"] == 6


def test_the_recipe_or_the_first_session_decides_without_a_measurement(timings):
    choices = [("always", None, True), ("never", True, False), ("auto", True, True), ("auto", False, False)]
    for wanted, known, on in choices:
        assert choose_compile(wanted, TinyNet(), SHAPE, PLACE, known)[0] is on
    assert timings["count"] == 0


def test_where_it_does_not_compile_it_stays_off_and_says_why(timings):
    timings["compiled"] = RuntimeError("no C++ compiler\nlong story")
    on, line = choose_compile("auto", TinyNet(), SHAPE, PLACE)
    assert not on and line == "compile off: it fails here (RuntimeError: no C++ compiler)"


def test_without_memory_for_the_measurement_it_stays_off(timings):
    """The copy that is measured needs more memory than the training."""
    timings["plain"] = torch.OutOfMemoryError("CUDA out of memory")
    on, line = choose_compile("auto", TinyNet(), SHAPE, PLACE)
    assert not on and line == "compile off: it fails here (OutOfMemoryError: CUDA out of memory)"
    timings["plain"] = 1.0
    assert choose_compile("auto", TinyNet(), SHAPE, PLACE)[0]  # a failure is not remembered


def test_another_scan_or_version_is_measured_again(timings, monkeypatch):
    for change in (
        lambda: None,
        lambda: monkeypatch.setattr("mambamed.__version__", "9.9.9"),
        lambda: monkeypatch.setattr(compiling, "chosen_backend", lambda device: ("reference", "a test")),
    ):
        change()
        before = timings["count"]
        choose_compile("auto", TinyNet(), SHAPE, PLACE)
        assert timings["count"] == before + 2


def test_a_training_says_and_keeps_its_choice(prepared, tmp_path, timings):
    timings["compiled"] = 2.0
    recipe = small_recipe(CONVOLUTIONS, epochs=1, steps_per_epoch=1, compile="auto")
    (tmp_path / "run").mkdir()
    train(recipe, prepared=prepared, output=tmp_path / "run", device="cpu")
    recorded = Run.open(tmp_path / "run").recorded(0)
    assert recorded["compiled"] is False
    assert recorded["sessions"][0]["compile"].startswith("compile off: 2.000 s")
    assert "compile off: 2.000 s" in (tmp_path / "run" / "fold_0" / "train.log").read_text()
    options = {"prepared": prepared, "output": tmp_path / "exact", "device": "cpu", "deterministic": True}
    train(recipe, **options)
    assert "compile never" in (tmp_path / "exact" / "fold_0" / "train.log").read_text()
    assert timings["count"] == 2


def test_a_measurement_leaves_the_network_as_it_was():
    network = TinyNet()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert 0 < step_seconds(network, SHAPE, PLACE, compiled=False) < 60
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_only_training_steps_are_compiled_and_names_and_numbers_stay(tmp_path, monkeypatch):
    """The compiler is one that passes the network through and counts."""
    calls = []

    def passed_through(network, dynamic):
        def forward(image):
            calls.append(network.training)
            return network(image)

        return forward

    plain = tiny_loop(tmp_path / "plain", tiny_recipe())
    plain.go(Undisturbed())
    monkeypatch.setattr(torch, "compile", passed_through)
    loop = tiny_loop(tmp_path / "compiled", tiny_recipe(), compiled=True)
    loop.go(Undisturbed())
    assert calls == [True] * 12
    one, other = (read_checkpoint(each.run.checkpoint(0, "last")).tensors for each in (plain, loop))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own sources
def test_the_step_takes_what_torch_compile_returns(monkeypatch, tmp_path):
    """Its truth value is its length, which a network does not have."""
    graphs, compile_by = [], torch.compile

    def noted(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda network, **options: compile_by(network, backend=noted))
    loop = tiny_loop(tmp_path, tiny_recipe(), compiled=True)
    loop.go(Undisturbed())
    assert graphs and len(loop.state.counters.history) == loop.run.recipe.training.epochs


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own sources
def test_a_compiled_training_learns_what_a_plain_one_does(tmp_path):
    """By torch's own compiler, to rounding."""
    losses = []
    for compiled in (False, True):
        recipe = tiny_recipe(epochs=2, optimizer={"name": "sgd", "momentum": 0.0, "lr": 0.1})
        loop = tiny_loop(tmp_path / str(compiled), recipe, compiled=compiled)
        loop.state.network.drop.p = 0.0  # a compiled dropout draws other numbers
        loop.go(Undisturbed())
        losses += [row["loss"] for row in loop.state.counters.history]
    assert losses[:2] == pytest.approx(losses[2:], rel=1e-4)
