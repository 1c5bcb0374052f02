import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mambamed import numba_cache
from mambamed.numba_cache import with_cache

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("error", [RuntimeError("cannot cache function: no locator"), OSError(28, "full")])
def test_without_a_cache_it_is_compiled_anew_and_said(error, monkeypatch) -> None:
    said: list[str] = []
    log = SimpleNamespace(info=lambda text, *values: said.append(text % values))
    monkeypatch.setattr(numba_cache, "log", log)

    def make(cache: bool) -> str:
        if cache:
            raise error
        return "compiled"

    assert with_cache(make, "loop") == "compiled"
    assert said[0].startswith("loop is compiled without numba's cache")


def test_any_other_fault_is_not_hidden() -> None:
    with pytest.raises(TypeError):
        with_cache(lambda cache: [].no_such() if cache is None else len(cache), "loop")


def test_kernels_work_where_no_cache_folder_can_be_found() -> None:
    """A locator that finds nothing stands for a read-only installation without a home."""
    code = (
        "import numba.core.caching as caching\n"
        "for name in ('CacheImpl',):\n"
        "    getattr(caching, name)._locator_classes = []\n"
        "import numpy as np\n"
        "from mambamed.numba_cache import compiled\n"
        "@compiled('int64(int64)')\n"
        "def twice(n):\n    return 2 * n\n"
        "@compiled()\n"
        "def thrice(n):\n    return twice(n) + n\n"
        "print(twice(4), thrice(4))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["8", "12"]
