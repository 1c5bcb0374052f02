"""The scan as a loop of torch equals the definition."""

import pytest
import torch

from mambamed.ssm.exported import decompositions
from mambamed.ssm.reference import selective_scan_loop


@pytest.mark.parametrize(("length", "states", "reverse"), [(35, 4, True), (16, 4, False), (5, 600, True)])
def test_the_decomposed_scan_equals_the_definition(length, states, reverse) -> None:
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    u, delta, z = (draw(2, 8, length) for _ in range(3))
    B, C = draw(2, states, length), draw(2, states, length)
    arguments = (u, delta, -draw(8, states).abs(), B, C, draw(8), z, draw(8), True, reverse)
    scan = decompositions()[torch.ops.mambamed.selective_scan.default]
    out, _ = scan(*arguments, False, "auto")
    torch.testing.assert_close(out, selective_scan_loop(*arguments), rtol=1e-5, atol=1e-5)
