"""Every backend beside the same float64 judge, over lengths, batches, states, and what may be left out.

    python -m pytest tests/ssm/test_agreement.py              # every pair of choices, in some row
    python -m pytest -m slow tests/ssm/test_agreement.py      # every combination; on a GPU its backends too
    TRITON_INTERPRET=1 python -m pytest tests/ssm/test_agreement.py    # to 64 tokens Triton's interpreter too

Forward to 1e-5, gradients to 1e-4, relative to the largest value, from float32 inputs.
"""

from __future__ import annotations

import itertools

import pytest
import torch

from mambamed.ssm import scan, selective_scan, triton
from tests.ssm.exact_scan import exact_scan
from tests.ssm.scan_inputs import NAMES, relative_error, scan_inputs

CHOICES = [
    (1, 7, 64, 1000, 4097, 262144),  # tokens
    (1, 2, 3),  # batch entries
    (8, 16, 64),  # states
    (False, True),  # z
    (False, True),  # D
    (False, True),  # delta_bias
]
GRID = list(itertools.product(*CHOICES))
LOOP_LIMIT = 1000  # tokens that the loop of the definition is asked for


def pairs_of(row: tuple) -> set[tuple]:
    return set(itertools.combinations(enumerate(row), 2))


def pairwise(rows: list[tuple]) -> list[tuple]:
    """Some of the rows, in which every two choices that stand together in a row still do; greedily few,
    where 4 million states of a channel cost as much as one more pair is worth."""

    def worth(row: tuple) -> float:
        gain = len(pairs_of(row) & missing)
        return gain and max(0.1, gain - row[0] * row[1] * row[2] / 2**22)

    missing, chosen = set().union(*map(pairs_of, rows)), []
    while missing:
        best = max(rows, key=worth)
        missing -= pairs_of(best)
        chosen.append(best)
    return chosen


def backends_here(length: int) -> list[tuple[str, str]]:
    """(backend, device) of all that can serve; Triton's interpreter is too slow for long ones."""
    on_cpu = ["cpu", "chunked", *(["reference"] if length <= LOOP_LIMIT else [])]
    places = [(name, "cpu") for name in on_cpu]
    if triton.interpreted() and length <= 64:
        places.append(("triton", "cpu"))
    if torch.cuda.is_available() and not triton.interpreted():
        places += [(name, "cuda") for name in ("triton", "cuda", "chunked")]
    return [(name, device) for name, device in places if scan.why_unavailable(name) is None]


def assert_all_agree(row: tuple, reverse: bool, longest: int) -> None:
    """Of the longest sequence `longest` channels; of short ones more than a vector, no multiple of one."""
    length, batch, states, gated, skipping, biased = row
    channels = 19 if length <= 64 else 5 if length <= 4097 else longest
    inputs = scan_inputs(batch, channels, length, states)
    inputs[5:] = [
        t if there else None for t, there in zip(inputs[5:], (skipping, gated, biased), strict=True)
    ]
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    judged = [t if t is None or t.ndim != 3 or not reverse else t.flip(2) for t in inputs]
    wanted = exact_scan(judged, grad.flip(2) if reverse else grad)
    names = [name for name, t in zip(NAMES, inputs, strict=True) if t is not None]
    limits = {"out": 1e-5} | dict.fromkeys(names, 1e-4)
    too_large = {}
    for backend, device in backends_here(length):
        leaves = [None if t is None else t.detach().to(device).requires_grad_() for t in inputs]
        out = selective_scan(*leaves, delta_softplus=True, reverse=reverse, backend=backend)
        grads = torch.autograd.grad(out, [t for t in leaves if t is not None], grad.to(device))
        answers = {"out": out.detach(), **dict(zip(names, grads, strict=True))}
        assert answers.keys() == wanted.keys()
        for name, answer in answers.items():
            exact = torch.from_numpy(wanted[name].copy())
            exact = exact.flip(2) if reverse and exact.ndim == 3 else exact
            assert answer.shape == exact.shape
            error = relative_error(answer.cpu(), exact)
            if not error <= limits[name]:  # also if it is not a number
                too_large[backend, device, name] = error
    assert not too_large


def test_the_rows_chosen_hold_every_pair_of_choices() -> None:
    rows = pairwise(GRID)
    for (i, first), (j, second) in itertools.combinations(enumerate(CHOICES), 2):
        for a, b in itertools.product(first, second):
            assert any(row[i] == a and row[j] == b for row in rows)
    assert len(rows) < len(GRID) // 10


@pytest.mark.parametrize("row", pairwise(GRID), ids=str)
def test_backends_agree_in_every_pair_of_choices(row) -> None:
    assert_all_agree(row, reverse=row[4], longest=1)


@pytest.mark.slow
@pytest.mark.parametrize("row", GRID, ids=str)
def test_backends_agree_in_every_combination(row) -> None:
    assert_all_agree(row, reverse=row[4], longest=2)


def test_the_judge_and_the_definition_in_float64_agree_to_rounding() -> None:
    """Two transcriptions of the formulas and of their chain rule, one in torch's loop, one in numba's."""
    inputs = scan_inputs(2, 4, 50, 8, dtype=torch.float64)
    grad = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    leaves = [t.requires_grad_() for t in inputs]
    out = selective_scan(*leaves, delta_softplus=True, backend="reference")
    ours = dict(zip(NAMES, torch.autograd.grad(out, leaves, grad), strict=True)) | {"out": out.detach()}
    for name, wanted in exact_scan(inputs, grad).items():
        assert relative_error(ours[name], torch.from_numpy(wanted.copy())) < 1e-12
