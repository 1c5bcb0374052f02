"""What is particular to the compiled kernels: vector widths, no copies, threads, forks, the self-test."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from mambamed.ssm import cpu, reference, scan, selective_scan
from mambamed.ssm.rows import Rows
from mambamed.ssm.simd import host_width
from tests.ssm.exact_scan import exact_scan
from tests.ssm.scan_inputs import NAMES, relative_error, scan_inputs

if reason := scan.why_unavailable("cpu"):
    pytest.skip(reason, allow_module_level=True)


@pytest.mark.parametrize("extras", [True, False])
def test_narrow_vectors_give_the_same_as_wide_ones(extras, monkeypatch) -> None:
    monkeypatch.setattr(cpu, "vector_width", lambda: 8)
    inputs = scan_inputs(2, 24, 50, 16, extras=extras)
    grad = torch.randn(2, 24, 50)
    out, kept = cpu.scan_forward(*inputs, True, False, True)
    assert kept.shape == cpu.saved_shape(2, 50, 24, 16)
    doubles = [None if t is None else t.double() for t in inputs]
    assert relative_error(out, reference.scan_forward(*doubles, True, False, False)[0]) < 1e-5
    wanted = reference.scan_backward(grad.double(), None, *doubles, True, False)
    for g, w in zip(cpu.scan_backward(grad, kept, *inputs, True, False), wanted, strict=True):
        assert (g is None) == (w is None)
        assert g is None or relative_error(g, w) < 1e-5


def test_channel_last_slices_are_read_in_place() -> None:
    xz = torch.randn(2, 9, 64).transpose(1, 2)
    rows = Rows(xz[:, 32:], 32, reverse=False)
    assert rows.at(1, 3, 5) == xz[1, 37, 3].data_ptr()
    assert Rows(xz[:, 32:], 32, reverse=True).at(1, 3, 5) == xz[1, 37, 5].data_ptr()
    assert rows.stride == 64 * 4


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same_bits(threads) -> None:
    inputs = scan_inputs(1, 48, 400, 8)
    before = torch.get_num_threads()
    wanted = selective_scan(*inputs, True, backend="cpu")
    try:
        torch.set_num_threads(threads)
        assert torch.equal(selective_scan(*inputs, True, backend="cpu"), wanted)
    finally:
        torch.set_num_threads(before)


def test_python_threads_serve_where_openmp_cannot_be_shared(monkeypatch) -> None:
    from mambamed.ssm import cpu_threads

    inputs = scan_inputs(1, 48, 400, 8)
    wanted = selective_scan(*inputs, True, backend="cpu")
    monkeypatch.setattr(cpu_threads, "_gomp_parallel", lambda: None)
    monkeypatch.setattr(cpu_threads, "workers", lambda: 3)
    monkeypatch.setattr(cpu, "workers", lambda: 3)
    assert torch.equal(selective_scan(*inputs, True, backend="cpu"), wanted)
    cpu_threads._pool.shutdown()
    cpu_threads._forget_pool()


def test_several_callers_at_once_do_not_disturb_each_other() -> None:
    many = [scan_inputs(1, 32, 300, 8, seed=i) for i in range(4)]
    wanted = [selective_scan(*inputs, True, backend="cpu") for inputs in many]
    found: list = [None] * 4

    def call(i: int) -> None:
        for _ in range(10):
            found[i] = selective_scan(*many[i], True, backend="cpu")

    threads = [threading.Thread(target=call, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


def run_python(code: str, **environment: str) -> str:
    here = Path(__file__).resolve()
    path = os.pathsep.join([str(here.parents[2]), str(here.parent)])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_worker_of_a_data_loader_can_scan() -> None:
    code = (
        "import os, torch\n"
        "from scan_inputs import scan_inputs\n"
        "from mambamed.ssm import selective_scan\n"
        "inputs = scan_inputs(1, 64, 500, 8)\n"
        "wanted = selective_scan(*inputs, True)\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    torch.set_num_threads(1)  # as torch's data loader does\n"
        "    os._exit(0 if torch.equal(selective_scan(*inputs, True), wanted) else 3)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert run_python(code, OMP_NUM_THREADS="2").strip() == "0"


def test_without_any_folder_for_a_cache_kernels_are_compiled_anew(monkeypatch, caplog) -> None:
    from mambamed.ssm import lanes
    from mambamed.ssm.cpu_forward import make_forward

    compile_it = lanes.cfunc

    def without_folder(signature, cache=False, **options):
        if cache:  # what numba raises then
            raise RuntimeError(
                "cannot cache function 'forward': no locator available for file 'cpu_forward.py'"
            )
        return compile_it(signature, **options)

    monkeypatch.setattr(lanes, "cfunc", without_folder)
    monkeypatch.setattr("mambamed.numba_cache.private_folder", lambda: None)
    monkeypatch.setattr("mambamed.numba_cache.warnings.warn", lambda *_, **__: None)
    with caplog.at_level(logging.INFO, logger="mambamed.numba_cache"):
        assert make_forward(8, 4, 1, 0, 0).address
    assert "no locator available" in caplog.text


def test_a_processor_on_which_the_kernels_fail_is_served_by_plain_torch(monkeypatch) -> None:
    monkeypatch.setattr(cpu, "scan_forward", lambda *a, **k: (torch.zeros(1, cpu.vector_width(), 19), None))
    monkeypatch.setattr(cpu, "scan_backward", lambda *a, **k: [torch.zeros(1)] * 8)
    assert "self-test disagrees" in cpu.unavailable()

    def broken(*arguments, **options):
        raise RuntimeError("LLVM knows no such processor")

    monkeypatch.setattr(cpu, "scan_forward", broken)
    assert "LLVM knows no such processor" in cpu.unavailable()


def test_an_export_before_any_scan_does_not_decide_against_the_kernels() -> None:
    code = (
        "import torch\n"
        "from mambamed.ssm import Mamba, chosen_backend\n"
        "model, x = Mamba(16), torch.randn(1, 40, 16)\n"
        "length = {'x': {1: torch.export.Dim('L', min=8, max=5000)}}\n"
        "longer = torch.randn(1, 77, 16)\n"
        "with torch.no_grad():\n"
        "    for turn in range(2):\n"
        "        exported = torch.export.export(model, (x,), dynamic_shapes=length)\n"
        "        assert torch.allclose(exported.module()(longer), model(longer), atol=1e-5)\n"
        "        print(chosen_backend('cpu')[0])\n"
        "print(*(n.target for n in exported.graph.nodes if 'mambamed' in str(n.target)))\n"
    )
    names = ["mambamed.causal_conv.default", "mambamed.selective_scan.default"]
    assert run_python(code).split() == ["cpu", "cpu", *names]


def test_defaults_of_torch_that_others_set_do_no_harm() -> None:
    code = (
        "import torch\n"
        "from mambamed.ssm import Mamba, chosen_backend\n"
        "model, x = Mamba(16), torch.randn(1, 600, 16)\n"
        "torch.set_default_dtype(torch.float64)\n"
        "with torch.device('meta'), torch.autocast('cpu', torch.bfloat16):\n"
        "    print(chosen_backend('cpu')[0])\n"
        "with torch.device('meta'):\n"
        "    loss = model(x).square().sum()\n"
        "    loss.backward()\n"
        "    with torch.no_grad():\n"
        "        print((model(x).square().sum() / loss - 1).abs().item() < 1e-5)\n"
    )
    assert run_python(code).split() == ["cpu", "True"]


def test_sums_over_many_tokens_keep_their_digits() -> None:
    """Beside a float64 judge: added up plainly, gradients of A, D and the bias are off by 5e-6 to 8e-6."""
    inputs = [t for t in scan_inputs(1, 1, 262144, 8) if t is not None]
    grad = torch.randn(1, 1, 262144, generator=torch.Generator().manual_seed(1))
    leaves = [t.requires_grad_() for t in inputs]
    out = selective_scan(*leaves, delta_softplus=True, backend="cpu")
    wanted = exact_scan([*inputs], grad)
    for name, ours in zip(NAMES, torch.autograd.grad(out, leaves, grad), strict=True):
        assert relative_error(ours, torch.from_numpy(wanted[name].copy())) < 1e-6, name


@pytest.mark.parametrize("width", sorted({8, host_width()}))
@pytest.mark.parametrize(
    ("length", "reverse"), [(15, False), (16, True), (17, False), (50, True), (64, False)]
)
def test_channel_major_sequences_give_the_same_bits(length, reverse, width, monkeypatch) -> None:
    """Also a part of them, as slices of larger tensors."""
    monkeypatch.setattr(cpu, "vector_width", lambda: width)
    inputs = scan_inputs(2, 32, length, 16)
    grad = torch.randn(2, length, 32).transpose(1, 2)
    out, kept = cpu.scan_forward(*inputs, True, reverse, True)
    grads = cpu.scan_backward(grad, kept, *inputs, True, reverse)
    for turned in (NAMES, ("u", "B"), ("delta", "z", "C")):
        major = [
            _channel_major(t) if name in turned and t.ndim == 3 else t
            for name, t in zip(NAMES, inputs, strict=True)
        ]
        assert torch.equal(cpu.scan_forward(*major, True, reverse, False)[0], out)
        for ours, wanted in zip(
            cpu.scan_backward(_channel_major(grad), kept, *major, True, reverse), grads, strict=True
        ):
            assert torch.equal(ours, wanted)


def _channel_major(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers with the tokens adjacent in memory, inside of a larger tensor."""
    batch, channels, length = tensor.shape
    whole = torch.full((batch, channels + 3, length + 5), float("nan"))
    part = whole[:, 2 : channels + 2, 1 : length + 1]
    part.copy_(tensor)
    return part


def test_channel_major_sequences_are_read_in_place() -> None:
    major = torch.randn(2, 64, 40)
    rows = Rows(major, 64, reverse=True, turned=True)
    assert rows.place(1, 8) == (major[1, 8, 39].data_ptr(), -4, 160)
