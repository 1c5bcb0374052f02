import os
import subprocess
import sys
import warnings
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

    monkeypatch.setattr(numba_cache, "private_folder", lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert with_cache(make, "loop") == "compiled"
    assert said[0].startswith("loop is compiled without numba's cache")


def test_any_other_fault_is_not_hidden() -> None:
    with pytest.raises(TypeError):
        with_cache(lambda cache: [].no_such() if cache is None else len(cache), "loop")


KERNELS = """
import numba.core.caching as caching
for kind in (caching.CacheImpl, caching.CompileResultCacheImpl):
    kind._locator_classes = {locators}
import numpy as np
from mambamed.numba_cache import cache_folder, compiled
@compiled('int64(int64)')
def twice(n):
    return 2 * n
@compiled()
def thrice(n):
    return twice(n) + n
print(twice(4), thrice(4), cache_folder(), sum(thrice.stats.cache_hits.values()))
"""
NONE, GIVEN = "[]", "caching.CacheImpl._locator_classes[:1]"  # numba's first one is NUMBA_CACHE_DIR


def kernels(folder: Path, locators: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Kernels compiled where numba finds no folder by itself: a read-only installation without a home."""
    (folder / "kernels.py").write_text(KERNELS.format(locators=locators))
    kept = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    return subprocess.run(
        [sys.executable, str(folder / "kernels.py")],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_kernels_work_where_no_cache_folder_can_be_found_and_it_is_said_once(tmp_path) -> None:
    done = kernels(tmp_path, NONE)
    assert done.stdout.split() == ["8", "12", "None", "0"]
    assert done.stderr.count("Set NUMBA_CACHE_DIR") == 1


needs_users = pytest.mark.skipif(not hasattr(os, "getuid"), reason="Windows has no owner of a folder")


@needs_users
def test_without_a_home_a_folder_of_this_user_alone_is_shared_by_all_processes(tmp_path) -> None:
    folder = tmp_path / f"mambamed-{os.getuid()}"
    first, second = (kernels(tmp_path, GIVEN, TMPDIR=str(tmp_path)) for _ in range(2))
    for done, read in ((first, "0"), (second, "1")):  # the second process compiles nothing
        *_, used, hits = done.stdout.split()
        assert Path(used).parent == folder and hits == read
    assert folder.stat().st_mode & 0o777 == 0o700 and not first.stderr


@needs_users
@pytest.mark.parametrize("planted", ["open", "link", "file", "foreign", "replaceable"])
def test_a_folder_in_which_others_could_plant_code_is_not_used(planted, tmp_path) -> None:
    folder = tmp_path / f"mambamed-{os.getuid()}"
    if planted == "open":
        folder.mkdir()
        folder.chmod(0o777)
    elif planted == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    elif planted == "file":
        folder.write_text("")
    elif planted == "foreign":
        if os.getuid():
            pytest.skip("only root can give a folder to somebody else")
        folder.mkdir(mode=0o700)
        os.chown(folder, 12345, 12345)
    else:
        tmp_path.chmod(0o777)  # without the sticky bit of /tmp
    done = kernels(tmp_path, GIVEN, TMPDIR=str(tmp_path))
    assert done.stdout.split()[2:] == ["None", "0"] and "Set NUMBA_CACHE_DIR" in done.stderr


@needs_users
def test_without_a_home_no_folder_named_after_it_is_made(tmp_path) -> None:
    """For a user that the system does not know, `~` stands for nothing, and numba would make a folder "~"."""
    code = KERNELS.format(locators="[]").replace("= []", "= kind._locator_classes")
    hidden = "import os, os.path\nos.path.expanduser = lambda path: path\n"
    kept = {
        key: value for key, value in os.environ.items() if key not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    (tmp_path / "work").mkdir()
    (tmp_path / "kernels.py").write_text(hidden + code)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "kernels.py")],
        cwd=tmp_path / "work",
        env={**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.split()[2]).parent == tmp_path / f"mambamed-{os.getuid()}"
    assert list((tmp_path / "work").iterdir()) == []
