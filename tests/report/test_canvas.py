"""Pictures wherever they are drawn: in a notebook, with settings of the user, with names of a stranger."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from mambamed.report.point_pictures import draw_points

ROOT = Path(__file__).resolve().parents[2]
DRAWS = """
import hashlib, sys
from pathlib import Path
import numpy as np
from mambamed.report.point_pictures import draw_points
image = np.random.default_rng(0).normal(size=(9, 9, 9))
draw_points(Path(sys.argv[1]), "case", image, np.eye(4), {"tip": (3, 4, 5)})
print(hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest())
import matplotlib, os
print(matplotlib.rcParams._get_backend_or_none(), os.environ.get("MPLBACKEND"))
"""


def drawn(folder: Path, **environment: str) -> list[str]:
    """Digest of a picture, and the backend and MPLBACKEND that pyplot would find afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", DRAWS, str(folder / "a.png")],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_backend_of_another_environment_is_no_fault(tmp_path) -> None:
    """A cell `!mambamed ...` has the variable of the notebook and not its packages."""
    plain, _, _ = drawn(tmp_path)
    for name in ("module://matplotlib_inline.backend_inline", "nonsense"):
        digest, _, kept = drawn(tmp_path, MPLBACKEND=name)
        assert (digest, kept) == (plain, name)
    assert drawn(tmp_path, MPLBACKEND="svg") == [plain, "svg", "svg"]  # pyplot keeps what can be used


def test_the_settings_of_a_user_do_not_change_a_picture(tmp_path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: true\nfont.size: 30\nsavefig.bbox: tight\n")
    assert drawn(tmp_path, MATPLOTLIBRC=str(tmp_path / "matplotlibrc")) == drawn(tmp_path)


@pytest.mark.parametrize("name", [r"a$\b$c", "$x^", r"\$5$ and $6", r"$\frac{$"])
def test_a_name_is_no_formula(name, tmp_path) -> None:
    draw_points(tmp_path / "a.png", name, np.zeros((5, 5, 5)), np.eye(4), {name: (1, 2, 3)})
    assert imread(tmp_path / "a.png").std() > 0
