"""The progress of a run, read from its files while it trains."""

import json
import shutil

from mambamed.run.folder import PATCHES
from mambamed.viewer import Answers, open_subject
from mambamed.viewer.training import training_of
from tests.answers.stubs import stub_run
from tests.training.tiny import Undisturbed, tiny_loop, tiny_recipe
from tests.viewer import scenes
from tests.viewer.test_server import ask, below


def test_curves_and_validation_patches_of_a_run_are_served(tmp_path) -> None:
    stub_run(tmp_path / "run")
    loop = tiny_loop(tmp_path / "run", tiny_recipe(epochs=2))
    shown = open_subject([tmp_path / "run"], None, None)
    with scenes.served(shown) as server:
        assert ask(server, below(server, "patches/0/1.png"))[0] == 404
        assert json.loads(ask(server, below(server, "training.json"))[2])["folds"][0]["patches"] is False
        loop.go(Undisturbed())
        fold = json.loads(ask(server, below(server, "training.json"))[2])["folds"][0]
        assert (fold["epoch"], fold["patches"], fold["curves"]["epoch"]) == (2, True, [1, 2])
        status, headers, body = ask(server, below(server, "patches/0/2.png"))
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert body == (tmp_path / "run" / "fold_0" / PATCHES).read_bytes()
        for name in ("patches/1/2.png", "patches/0/../2.png", "patches/0/x.png"):
            assert ask(server, below(server, name))[0] == 404


def test_the_time_left_is_that_of_the_shortened_schedule(tmp_path) -> None:
    with scenes.run_in_training(tmp_path / "run") as run:
        (fold,) = training_of(run)["folds"]
    assert (fold["state"], fold["epoch"], fold["epochs"], fold["validated"]) == ("training", 3, 5, False)
    assert fold["seconds_left"] == 20  # two epochs of 10 s


def test_cases_of_a_later_fold_follow_those_that_are_shown(tmp_path) -> None:
    evaluation, run = scenes.mask_evaluation(tmp_path), tmp_path / "run"
    stub_run(run)
    shutil.copytree(evaluation, run / "fold_1")
    answers = Answers(open_subject([run], None, None))
    cases = ["HEAD-0000", "HEAD-0001", "HEAD-0002"]
    assert answers.subject()["ids"] == cases
    for later in ("fold_0", "fold_\xb2"):  # of a copy by hand; no number
        shutil.copytree(evaluation, run / later, dirs_exist_ok=True)
    found = answers.subject()
    folds = ["fold_1", "fold_0", "fold_\xb2"]
    assert found["ids"] == [f"{fold}/{case}" for fold in folds for case in cases]
    assert [row[0] for row in found["rows"][::3]] == ["1", "0", "\xb2"]
