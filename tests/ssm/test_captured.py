"""Segments of a scan by recorded graphs: the same bits as operation by operation, and nobody's memory reused.

Without a GPU, a graph is a function that runs again on the same buffers.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mambamed.ssm import Mamba, captured, chunked, selective_scan, set_backend
from mambamed.ssm.captured import CudaGraphs, Graphs
from tests.ssm.scan_inputs import scan_inputs

TOKENS = 20  # of a segment


class Repeated(Graphs):
    """Graphs on a CPU."""

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault, self.recorded, self.replays, self.around = fault, 0, 0, False

    def busy(self) -> bool:
        return self.around

    def stream(self, device: torch.device) -> int:
        return 0

    def record(self, work, buffers):
        self.recorded += 1
        if self.fault:
            raise RuntimeError(self.fault)
        # As on a GPU, recording computes nothing.
        results = [None if t is None else torch.full_like(t, torch.nan) for t in work()]

        def replay() -> None:
            self.replays += 1
            for result, found in zip(results, work(), strict=True):
                if result is not None:
                    result.copy_(found)

        return results, replay


@pytest.fixture
def launched(monkeypatch) -> None:
    """Scans are computed as on a device whose operations are launches, in segments of 20 tokens."""
    monkeypatch.setattr(chunked, "launches", lambda device_type: True)
    monkeypatch.setattr(chunked, "LAUNCHED_NUMBERS", 8 * 16 * TOKENS)


@pytest.fixture
def graphs(launched, monkeypatch) -> Repeated:
    made = Repeated()
    monkeypatch.setattr(chunked, "graphs_of", lambda device_type: made)
    return made


@contextlib.contextmanager
def plain(monkeypatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(chunked, "graphs_of", lambda device_type: None)
        yield


def answers(inputs: list, reverse: bool = False) -> list[torch.Tensor]:
    """The output and all gradients."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    given = [t for t in leaves if t is not None]
    out = selective_scan(*leaves, delta_softplus=True, reverse=reverse, backend="chunked")
    return [out.detach(), *torch.autograd.grad(out, given, torch.sin(torch.arange(out.numel()).view_as(out)))]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize("length", [7, 3 * TOKENS, 3 * TOKENS + 5])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_outputs_and_gradients_have_the_same_bits(graphs, monkeypatch, kind, length, extras, reverse) -> None:
    for seed in range(3):  # launched, recorded, repeated on other numbers
        inputs = scan_inputs(2, 8, length, 16, dtype=kind, extras=extras, seed=seed)
        with plain(monkeypatch):
            wanted = answers(inputs, reverse)
        for ours, theirs in zip(answers(inputs, reverse), wanted, strict=True):
            assert torch.equal(ours, theirs)
    sizes = len({min(TOKENS, length), length % TOKENS or TOKENS})
    assert graphs.recorded == len(graphs) == 2 * sizes  # forwards and backwards
    assert graphs.replays >= 2 * 2 * sizes


def test_a_function_is_recorded_at_its_second_call_and_for_each_size_and_option(graphs) -> None:
    one = scan_inputs(1, 8, TOKENS, 16)
    selective_scan(*one, backend="chunked")
    assert graphs.recorded == 0
    selective_scan(*one, backend="chunked")
    assert graphs.recorded == 1
    # A longer sequence has the same segments, and other types become those of the buffers.
    selective_scan(*scan_inputs(1, 8, 4 * TOKENS, 16), backend="chunked")
    selective_scan(*scan_inputs(1, 8, TOKENS, 16, dtype=torch.bfloat16), backend="chunked")
    assert graphs.recorded == 1
    others = [
        (scan_inputs(2, 8, TOKENS, 16), {}), (scan_inputs(1, 8, TOKENS - 1, 16), {}),
        (scan_inputs(1, 16, 10, 16), {}), (scan_inputs(1, 8, TOKENS, 16, dtype=torch.float64), {}),
        (one, {"delta_softplus": True}), (one, {"reverse": True}), ([*one[:7], None], {}),
    ]  # fmt: skip
    for number, (inputs, options) in enumerate(others, 2):
        for _ in range(2):
            selective_scan(*inputs, **options, backend="chunked")
        assert graphs.recorded == number
    # D and z are no arguments of a segment's forward pass
    selective_scan(*one[:5], None, None, one[7], backend="chunked")
    assert graphs.recorded == number


def test_results_that_are_alive_are_not_overwritten_by_the_next_call(graphs, monkeypatch) -> None:
    """Two blocks of the same size: both forward passes, then both backward passes."""
    batches = [scan_inputs(1, 8, 3 * TOKENS, 16, seed=seed) for seed in range(2)]
    with plain(monkeypatch):
        wanted = [answers(inputs) for inputs in batches]
    for inputs in batches:
        answers(inputs)
    leaves = [[t.detach().requires_grad_() for t in inputs] for inputs in batches]
    outs = [selective_scan(*each, delta_softplus=True, backend="chunked") for each in leaves]
    grad = torch.sin(torch.arange(outs[0].numel()).view_as(outs[0]))
    found = [torch.autograd.grad(out, each, grad) for out, each in zip(outs, leaves, strict=True)]
    assert graphs.replays > 12
    for out, grads, (first, *others) in zip(outs, found, wanted, strict=True):
        assert torch.equal(out, first)
        assert all(torch.equal(a, b) for a, b in zip(grads, others, strict=True))


def test_the_number_of_graphs_is_limited_and_idle_ones_are_replaced(graphs, monkeypatch, caplog) -> None:
    monkeypatch.setattr(captured, "MOST", 2)
    monkeypatch.setattr(captured, "IDLE", 5)
    inputs = {length: scan_inputs(1, 8, length, 16) for length in (3, 4, 5)}

    def scan(length: int) -> torch.Tensor:
        return selective_scan(*inputs[length], backend="chunked")

    for length in (3, 3, 4, 4):
        scan(length)
    assert len(graphs) == 2
    for _ in range(3):  # both are in use
        scan(5)
    assert (len(graphs), graphs.recorded) == (2, 2)
    assert caplog.text.count("2 graphs of other sizes are in use") == 1
    for _ in range(5):
        scan(4)
    for _ in range(2):
        out = scan(5)
    assert (len(graphs), graphs.recorded) == (2, 3)
    with plain(monkeypatch):
        assert torch.equal(out, scan(5))
    for length in range(6, 60):  # each size once
        selective_scan(*scan_inputs(1, 8, length % TOKENS + 1, length, extras=False), backend="chunked")
    assert len(graphs._known) <= 2 + 8 * 2


@pytest.mark.parametrize("cause", ["around", "fault"])
def test_where_nothing_can_be_recorded_the_operations_run_and_a_line_says_so(
    launched, monkeypatch, caplog, cause
) -> None:
    made = Repeated("no memory\nand more" if cause == "fault" else "")
    made.around = cause == "around"
    monkeypatch.setattr(chunked, "graphs_of", lambda device_type: made)
    inputs = scan_inputs(1, 8, TOKENS, 16)
    with plain(monkeypatch):
        wanted = answers(inputs)
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            assert all(torch.equal(a, b) for a, b in zip(answers(inputs), wanted, strict=True))
    facts = {"around": "a graph is being recorded around the scan", "fault": "recording it failed: no memory"}
    expected = f"selective scan without a CUDA graph, one launch per operation: {facts[cause]}"
    assert caplog.messages == [expected]
    assert made.recorded == (1 if cause == "fault" else 0)


def test_a_graph_recorded_in_inference_mode_serves_a_training(graphs, monkeypatch) -> None:
    inputs = scan_inputs(1, 8, 2 * TOKENS, 16)
    with plain(monkeypatch):
        wanted = answers(inputs)
    with torch.inference_mode():
        for _ in range(2):
            out = selective_scan(*[t.clone() for t in inputs], delta_softplus=True, backend="chunked")
    assert graphs.recorded == 1 and torch.equal(out, wanted[0])
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(answers(inputs), wanted, strict=True))


def test_threads_do_not_mix_their_arguments(graphs, monkeypatch) -> None:
    batches = [scan_inputs(1, 8, 2 * TOKENS, 16, seed=seed) for seed in range(4)]
    with plain(monkeypatch):
        wanted = [answers(inputs) for inputs in batches]
    answers(batches[0])
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            found = answers(batches[number])
            if not all(torch.equal(a, b) for a, b in zip(found, wanted[number], strict=True)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and graphs.replays > 30


@pytest.fixture
def one_process(tmp_path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("how", ["plain", "ddp", pytest.param("compiled", marks=pytest.mark.slow)])
def test_trainings_learn_the_same_weights(graphs, monkeypatch, one_process, how) -> None:
    """Two blocks of one size, whose graphs are shared; under DDP and as compiled code."""

    def trained() -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = nn.Sequential(Mamba(4, d_state=16), Mamba(4, d_state=16))
        forward = DistributedDataParallel(network) if how == "ddp" else network
        forward = torch.compile(network, backend="aot_eager") if how == "compiled" else forward
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        for step in range(3):
            optimizer.zero_grad()
            x = torch.randn(2, TOKENS, 4, generator=torch.Generator().manual_seed(step))
            forward(x).square().sum().backward()
            optimizer.step()
        return [p.detach().clone() for p in network.parameters()]

    set_backend("chunked")
    try:
        with plain(monkeypatch):
            wanted = trained()
        assert all(torch.equal(a, b) for a, b in zip(trained(), wanted, strict=True))
    finally:
        set_backend("auto")
    assert graphs.recorded == 2 and graphs.replays >= 2 * 2 * 2


def test_only_cuda_devices_have_graphs() -> None:
    assert chunked.graphs_of("cpu") is None and chunked.graphs_of("mps") is None
    assert isinstance(chunked.graphs_of("cuda"), CudaGraphs)


def test_a_cuda_graph_is_recorded_aside_after_a_first_run(monkeypatch) -> None:
    """Which calls are made of torch, in which order; their arguments are those that torch has."""
    events: list[str] = []
    signature = inspect.signature(torch.cuda.graph.__init__)

    class Stream(SimpleNamespace):
        def wait_stream(self, other: Stream) -> None:
            events.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def noted(name: str) -> Iterator[None]:
        events.append(f"begin {name}")
        yield
        events.append(f"end {name}")

    def graph(*given, **options):
        bound = signature.bind(None, *given, **options).arguments
        assert bound["stream"].name == "aside" and bound["capture_error_mode"] == "thread_local"
        return noted(f"graph in {bound['pool']}")

    cuda = {
        "device": lambda device: contextlib.nullcontext(),
        "current_stream": lambda *device: Stream(name="main", cuda_stream=7),
        "Stream": lambda: Stream(name="aside"),
        "graph_pool_handle": lambda: "pool",
        "stream": lambda stream: noted(f"on {stream.name}"),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: events.append("replay")),
        "graph": graph,
        "set_stream": lambda stream: events.append(f"back on {stream.name}"),
    }
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def work() -> list[torch.Tensor]:
        events.append("work")
        return [torch.ones(1)]

    made = CudaGraphs()
    for _ in range(2):
        results, replay = made.record(work, [None, torch.ones(2)])
        replay()
        assert len(results) == 1
    once = ["aside waits for main", "begin on aside", "work", "end on aside", "main waits for aside"]
    once += ["begin graph in pool", "work", "end graph in pool", "back on main", "replay"]
    assert events == 2 * once
    first = iter([[]])  # the recording fails, not the run before it
    with pytest.raises(StopIteration):
        made.record(lambda: next(first), [torch.ones(2)])
    assert events[-1] == "back on main"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("reverse", [False, True])
def test_on_a_gpu_the_bits_are_the_same_and_launches_are_few(monkeypatch, reverse) -> None:
    monkeypatch.setattr(chunked, "graphs_of", lambda device_type: None)
    inputs = [t.cuda() for t in scan_inputs(2, 32, 5000, 16)]
    leaves = [t.requires_grad_() for t in inputs]

    def found() -> list[torch.Tensor]:
        out = selective_scan(*leaves, delta_softplus=True, reverse=reverse, backend="chunked")
        return [out, *torch.autograd.grad(out.sum(), leaves)]

    def launches() -> int:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
            found()
        return sum(each.name.startswith(("cudaLaunchKernel", "cudaGraphLaunch")) for each in watched.events())

    wanted, before = found(), launches()
    monkeypatch.undo()
    made = CudaGraphs()
    monkeypatch.setattr(chunked, "graphs_of", lambda device_type: made)
    for _ in range(4):
        assert all(torch.equal(a, b) for a, b in zip(found(), wanted, strict=True))
    assert len(made) == 2 and launches() < before / 3
