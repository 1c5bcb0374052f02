"""Pictures of validation patches: how many, and by which process."""

from __future__ import annotations

import matplotlib.image
import torch

from mambamed.run.folder import PATCHES
from mambamed.run.workplace import Workplace
from mambamed.training.ranks import Ranks
from tests.training.tiny import Undisturbed, tiny_loop, tiny_recipe

CPU = Workplace(torch.device("cpu"), "fp32", torch.contiguous_format, False)


def test_three_patches_are_drawn_after_each_epoch(tmp_path) -> None:
    loop = tiny_loop(tmp_path / "run", tiny_recipe(epochs=1, validation_patches=12))
    loop.go(Undisturbed())
    assert len(loop.patches.validation.seen) == 3
    picture = matplotlib.image.imread(tmp_path / "run" / "fold_0" / PATCHES)
    # reference and prediction of each: a line of text, 192 pixels for the longest edge, a gap; then names
    assert picture.shape[0] >= 3 * 2 * (16 + 192 + 4) and picture[..., :3].std() > 0.05


def test_other_processes_than_the_first_keep_no_patches(tmp_path) -> None:
    loop = tiny_loop(tmp_path / "run", tiny_recipe())

    class Second(Ranks):
        leads = False

    loop.patches.validation.score(loop.state.validated, CPU, Second())
    assert loop.patches.validation.seen == []
