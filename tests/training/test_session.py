"""One fold in this process: its cases, its first batch and its network before the first step."""

import pytest
import torch

from mambamed.errors import RecipeError
from mambamed.preparation.store import PreparedDataset
from mambamed.progress import Silence
from mambamed.run.folder import planned_run
from mambamed.run.workplace import Workplace
from mambamed.training.session import Session
from tests.training.small_run import CONVOLUTIONS, small_recipe

PLACE = Workplace(torch.device("cpu"), "fp32", torch.contiguous_format)


def session_of(dataset, root, fold=0, labels=None, **training) -> Session:
    manifest = dataset.manifest.changed(labels=labels) if labels else dataset.manifest
    run = planned_run(small_recipe(CONVOLUTIONS, **training), dataset.plan, manifest, root)
    return Session(run, dataset, fold, PLACE, Silence())


@pytest.mark.parametrize(("second", "centers"), [("two", {1, 2}), ("ignore", {1})])
def test_foreground_patches_are_centered_on_every_label_but_the_ignored_one(
    prepared, tmp_path, second, centers
):
    session = session_of(
        PreparedDataset.open(prepared),
        tmp_path,
        labels={"background": 0, "one": 1, second: 2},
        patch_size=[4, 4, 4],
        batch_size=16,
        foreground=1.0,
        augment={"mirror": [], "rotate": 0, "scale": 0},
    )
    batch = session.first_batch()
    assert batch.image.shape == (16, 1, 4, 4, 4)
    assert set(batch.target[:, 2, 2, 2].tolist()) == centers


def test_seed_and_fold_decide_the_first_weights(prepared, tmp_path):
    dataset = PreparedDataset.open(prepared)

    def weights(**settings) -> torch.Tensor:
        state = session_of(dataset, tmp_path, **settings).fresh_state()
        assert (state.counters.step, state.counters.steps) == (0, 6)  # 2 epochs of 3 steps
        return torch.cat([p.detach().flatten() for p in state.network.parameters()])

    assert torch.equal(weights(), weights())
    assert not torch.equal(weights(), weights(fold=1))
    assert not torch.equal(weights(), weights(seed=1))


def test_a_fold_without_training_cases_is_rejected(prepared, tmp_path):
    dataset = PreparedDataset.open(prepared)
    dataset.splits = [{"train": [], "val": dataset.case_ids}]
    with pytest.raises(RecipeError, match=r"fold 0 has no training cases\. Prepare it again\.$"):
        session_of(dataset, tmp_path)
