"""Every backend is the definition: outputs and gradients, in every combination of arguments."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mambamed.ssm import BACKENDS, chosen_backend, scan, selective_scan, set_backend
from mambamed.ssm.reference import selective_scan_loop
from tests.ssm.scan_inputs import NAMES, relative_error, scan_inputs

ON_CPU = [name for name in BACKENDS if name not in ("cuda", "triton")]  # which have tests of their own


def usable(name: str) -> str:
    if reason := scan.why_unavailable(name):
        pytest.skip(f"{name}: {reason}")
    return name


def with_gradients(inputs, delta_softplus, reverse, backend):
    """Output and gradients of the inputs that are there; `backend` None is the float64 loop."""
    if backend is None:
        inputs = [None if t is None else t.double() for t in inputs]
    leaves = [None if t is None else t.detach().requires_grad_() for t in inputs]
    if backend is None:
        out = selective_scan_loop(*leaves, delta_softplus, reverse)
    else:
        out = selective_scan(*leaves, delta_softplus, reverse, backend)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = torch.autograd.grad(out, [t for t in leaves if t is not None], grad.to(out.dtype))
    return out.detach(), grads


def assert_agrees(inputs, delta_softplus, reverse, backend) -> None:
    out, grads = with_gradients(inputs, delta_softplus, reverse, backend)
    wanted, wanted_grads = with_gradients(inputs, delta_softplus, reverse, None)
    assert out.dtype == inputs[0].dtype
    assert out.transpose(1, 2).is_contiguous()
    assert relative_error(out, wanted) < 1e-5
    names = [name for name, t in zip(NAMES, inputs, strict=True) if t is not None]
    errors = {n: relative_error(g, w) for n, g, w in zip(names, grads, wanted_grads, strict=True)}
    assert all(error < 1e-4 for error in errors.values()), errors


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("extras", [False, True])
@pytest.mark.parametrize(
    ("batch", "channels", "length", "states"),
    [(1, 16, 1, 16), (3, 5, 7, 8), (2, 16, 64, 16), (1, 24, 64, 64), (2, 16, 1000, 8), (1, 8, 1000, 16)],
)
def test_backend_agrees_with_the_definition(backend, batch, channels, length, states, extras) -> None:
    inputs = scan_inputs(batch, channels, length, states, extras=extras)
    for reverse in (False, True):
        assert_agrees(inputs, True, reverse, usable(backend))


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_backend_agrees_over_4097_tokens(backend) -> None:
    assert_agrees(scan_inputs(1, 16, 4097, 8), True, False, usable(backend))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["chunked", "cpu"])
@pytest.mark.parametrize("states", [16, 64])
def test_backend_agrees_over_262144_tokens(backend, states) -> None:
    inputs = scan_inputs(1, 4, 262144, states)
    out = selective_scan(*inputs, True, backend=usable(backend))
    wanted = selective_scan_loop(*[t.double() for t in inputs], True)
    assert relative_error(out, wanted) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_gradients_agree_over_262144_tokens(backend) -> None:
    # the definition in float64, by `chunked`, which the tests above compare with the loop
    inputs = scan_inputs(1, 4, 262144, 8)
    _, grads = with_gradients(inputs, True, False, usable(backend))
    _, wanted = with_gradients([t.double() for t in inputs], True, False, "chunked")
    assert all(relative_error(g, w) < 1e-4 for g, w in zip(grads, wanted, strict=True))


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
@given(
    batch=st.integers(1, 3), channels=st.integers(1, 40), length=st.integers(1, 70), states=st.integers(1,
    20), extras=st.booleans(), softplus=st.booleans(), reverse=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_backend_agrees_for_any_shape(
    backend, batch, channels, length, states, extras, softplus, reverse, seed
) -> None:
    inputs = scan_inputs(batch, channels, length, states, extras=extras, seed=seed)
    if not softplus:
        inputs[1], inputs[7] = inputs[1].abs() * 0.1, None  # steps are positive
    assert_agrees(inputs, softplus, reverse, usable(backend))


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_channel_first_and_sliced_inputs_give_the_same(backend) -> None:
    inputs = scan_inputs(2, 16, 33, 8)
    wanted = selective_scan(*inputs, True, backend=usable(backend))
    first = [t.contiguous() for t in inputs]
    torch.testing.assert_close(selective_scan(*first, True, backend=backend), wanted)
    wide = torch.cat([inputs[0], inputs[6], inputs[3]], 1).transpose(1, 2).contiguous().transpose(1, 2)
    sliced = [wide[:, :16], inputs[1], inputs[2], wide[:, 32:], *inputs[4:6], wide[:, 16:32], inputs[7]]
    torch.testing.assert_close(selective_scan(*sliced, True, backend=backend), wanted)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_pass_gradcheck_in_float64(backend, reverse) -> None:
    inputs = [t.requires_grad_() for t in scan_inputs(1, 2, 5, 3, dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *a: selective_scan(*a, True, reverse, backend), inputs)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("save", [False, True])
def test_the_operator_passes_opcheck(backend, save) -> None:
    inputs = scan_inputs(2, 16, 21, 8, extras=save)
    inputs = [t if t is None else t.requires_grad_(save) for t in inputs]
    arguments = (*inputs, True, False, save, usable(backend))
    torch.library.opcheck(torch.ops.mambamed.selective_scan.default, arguments)


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_a_compiled_graph_holds_one_node_forward_and_backward(backend) -> None:
    inputs = [t.requires_grad_() for t in scan_inputs(1, 16, 12, 8)]
    usable(backend)
    compiled = torch.compile(
        lambda *a: selective_scan(*a, True, False, backend), fullgraph=True, backend="aot_eager"
    )
    out, wanted = compiled(*inputs), selective_scan(*inputs, True, False, backend)
    torch.testing.assert_close(out, wanted)
    for ours, theirs in zip(
        torch.autograd.grad(out.sum(), inputs), torch.autograd.grad(wanted.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_large_steps_and_half_types_give_finite_numbers(backend, dtype) -> None:
    inputs = scan_inputs(1, 16, 300, 8, dtype=dtype)
    inputs[1] = inputs[1] * 100  # exp(dt A) from 1 down to e^-1000
    inputs[2] = inputs[2].float() * 10
    out, grads = with_gradients(inputs, True, False, usable(backend))
    assert out.dtype == dtype
    assert out.isfinite().all()
    assert all(g.float().isfinite().all() for g in grads)


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_states_stay_float32_for_bfloat16_inputs(backend) -> None:
    inputs = scan_inputs(1, 16, 2000, 8, dtype=torch.bfloat16)
    out = selective_scan(*inputs, True, backend=usable(backend))
    wanted = selective_scan_loop(*[t.double() for t in inputs], True)
    assert relative_error(out, wanted) < 2**-8  # one rounding, of the output


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_a_million_tokens_stay_finite_and_right(backend) -> None:
    inputs = scan_inputs(1, 1, 1_000_000, 1, extras=False)
    out = selective_scan(*inputs, True, backend=usable(backend))
    assert relative_error(out, selective_scan(*[t if t is None else t.double() for t in inputs], True)) < 1e-5


@pytest.mark.parametrize("backend", ["chunked", "cpu"])
def test_what_is_kept_for_the_backward_pass_is_far_from_all_states(backend) -> None:
    length, channels, states = 4096, 32, 16
    inputs = [t.requires_grad_() for t in scan_inputs(1, channels, length, states)]
    ours = {t.data_ptr() for t in inputs}
    kept = []

    def keep(tensor):
        if tensor.data_ptr() not in ours:
            kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        selective_scan(*inputs, True, backend=usable(backend))
    assert 0 < sum(kept) <= length * channels * states // 16


def test_where_numba_is_installed_the_compiled_kernels_serve() -> None:
    """Else every test of theirs would be skipped, and nobody would know."""
    pytest.importorskip("numba")
    assert scan.why_unavailable("cpu") is None
    assert chosen_backend("cpu")[0] == "cpu"


@pytest.mark.parametrize("backend", ["reference", "chunked", "cpu"])
def test_autocast_does_not_change_a_scan(backend) -> None:
    """`chunked` computed its products in bfloat16 there."""
    leaves = [t.requires_grad_() for t in scan_inputs(1, 8, 40, 16)]
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = selective_scan(*leaves, True, backend=usable(backend))
            found.append([out, *torch.autograd.grad(out.sum(), leaves)])
    for plain, cast in zip(*found, strict=True):
        assert torch.equal(plain, cast)


def test_float64_is_never_computed_in_float32() -> None:
    inputs = scan_inputs(1, 4, 20, 8, dtype=torch.float64)
    wanted = selective_scan_loop(*inputs, True)
    assert relative_error(selective_scan(*inputs, True), wanted) < 1e-13
    with pytest.raises(ValueError, match="float32"):
        selective_scan(*inputs, True, backend=usable("cpu"))


def test_the_choice_is_made_by_device_logged_and_can_be_set(caplog) -> None:
    scan._choose.cache_clear()
    with caplog.at_level(logging.INFO, logger="mambamed.ssm.scan"):
        name, why = chosen_backend("cpu")
    assert name in caplog.text
    assert why in caplog.text
    try:
        set_backend("reference")
        assert chosen_backend("cpu") == ("reference", "set by set_backend")
        assert chosen_backend(torch.device("cuda", 0))[0] == "reference"
    finally:
        set_backend("auto")
    assert chosen_backend("cpu") == (name, why)


def test_the_environment_names_a_backend_for_the_devices_that_it_serves(monkeypatch) -> None:
    chosen = chosen_backend("cpu")
    monkeypatch.setenv("MAMBAMED_SCAN", "reference")
    assert chosen_backend("cpu") == chosen_backend("cuda") == ("reference", "set by MAMBAMED_SCAN")
    assert scan.resolve_backend("auto", "cpu") == "reference"
    monkeypatch.setattr(scan, "why_unavailable", lambda name: None)
    monkeypatch.setenv("MAMBAMED_SCAN", "cuda")
    assert chosen_backend("cuda")[0] == "cuda" and chosen_backend("cpu") == chosen
    monkeypatch.setenv("MAMBAMED_SCAN", "auto")
    assert chosen_backend("cpu") == chosen


def test_what_is_asked_for_goes_before_all_on_the_devices_that_it_serves(monkeypatch) -> None:
    monkeypatch.setattr(scan, "why_unavailable", lambda name: None)
    monkeypatch.setenv("MAMBAMED_SCAN", "reference")
    with scan.asking_for("cuda"):
        assert chosen_backend("cuda") == ("cuda", "set by --scan, which overrides MAMBAMED_SCAN=reference")
        assert chosen_backend("cpu") == ("reference", "set by MAMBAMED_SCAN")
        set_backend("chunked")
        try:
            assert chosen_backend("cuda")[0] == "cuda" and chosen_backend("cpu")[0] == "chunked"
            with scan.asking_for("auto"):
                assert scan.asked_backend() == "cuda"
        finally:
            set_backend("auto")
    assert scan.asked_backend() == "auto" and chosen_backend("cuda")[0] == "reference"


def test_compiled_code_does_not_keep_a_backend_that_is_no_longer_asked_for(monkeypatch) -> None:
    """Its name is a constant there."""
    used = []
    for name in ("reference", "chunked"):
        module = scan._backend(name)
        forward = module.scan_forward
        monkeypatch.setattr(module, "scan_forward", lambda *a, n=name, f=forward: (used.append(n), f(*a))[1])
    compiled, inputs = torch.compile(selective_scan, backend="eager"), scan_inputs(1, 2, 5, 2)
    for name in ("reference", "chunked", "reference"):
        with scan.asking_for(name):
            compiled(*inputs)
    assert used == ["reference", "chunked", "reference"]


def test_a_backend_that_cannot_serve_is_refused_with_its_reason(monkeypatch) -> None:
    monkeypatch.setitem(BACKENDS, "broken", "mambamed.ssm.no_such_file")
    with pytest.raises(ValueError, match="no_such_file"):
        selective_scan(*scan_inputs(1, 2, 3, 2), backend="broken")
    with pytest.raises(ValueError, match="no_such_file"):
        set_backend("broken")
    with pytest.raises(ValueError, match="'fast': no such scan backend"):
        selective_scan(*scan_inputs(1, 2, 3, 2), backend="fast")


def test_a_device_falls_back_to_plain_torch_and_says_why(monkeypatch) -> None:
    monkeypatch.setitem(BACKENDS, "cpu", "mambamed.ssm.no_such_file")
    scan._choose.cache_clear(), scan.why_unavailable.cache_clear(), scan._backend.cache_clear()
    try:
        name, why = chosen_backend("cpu")
        assert name == "chunked"
        assert "no cpu: No module named 'mambamed.ssm.no_such_file'" in why
    finally:
        monkeypatch.undo()
        scan._choose.cache_clear(), scan.why_unavailable.cache_clear(), scan._backend.cache_clear()


def test_shapes_that_do_not_fit_are_named() -> None:
    u, delta, A, B, C, *_ = scan_inputs(1, 4, 6, 8)
    with pytest.raises(ValueError, match=r"B must be \(1, 8, 6\) for u \(1, 4, 6\), got \(1, 7, 6\)"):
        selective_scan(u, delta, A, B[:, :7], C)
    with pytest.raises(ValueError, match="u must be"):
        selective_scan(u[0], delta, A, B, C)
    with pytest.raises(ValueError, match="A must be"):
        selective_scan(u, delta, A[:3], B, C)


def test_an_empty_sequence_gives_an_empty_answer() -> None:
    inputs = scan_inputs(1, 4, 0, 8)
    assert selective_scan(*inputs).shape == (1, 4, 0)
