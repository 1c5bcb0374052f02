"""The progress of a run, read from its files while it trains."""

import json

from mambamed.run.folder import PATCHES
from mambamed.viewer import open_subject
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
