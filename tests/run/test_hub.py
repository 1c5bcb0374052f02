"""Models on the hub: upload, download and use without a network, against a server that plays the protocol."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from mambamed.documents.splits import FoldName
from mambamed.errors import ModelError
from mambamed.run.hub import Reference, local_model
from mambamed.run.hub_card import hub_card
from tests.answers.stubs import stub_run, write_blobs
from tests.faults.in_process import call
from tests.run.hub_server import TOKEN, go_offline, local_hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with local_hub(monkeypatch, tmp_path / "home") as served:
        yield served


def test_a_model_goes_to_the_hub_and_predicts_from_there_also_offline(hub, tmp_path, monkeypatch) -> None:
    run, home = stub_run(tmp_path / "run").root, tmp_path / "home"
    write_blobs(tmp_path / "images", 1)
    named = ("--dataset-name", "My data 2024")
    pushed = call("export", run, "--push", "hf://org/name", "--license", "cc-by-4.0", *named)
    assert pushed.code == 0, pushed.lines
    assert hub.private == [True] and set(hub.files) == {"model.mambamed", "README.md"}
    model = (run / "model.mambamed").read_bytes()
    assert hub.files["model.mambamed"] == model and [*hub.large.values()] == [model]
    card = ModelCard(hub.files["README.md"].decode()).data
    assert (card.library_name, card.license, card.pipeline_tag) == (
        "mambamed", "cc-by-4.0", "image-segmentation",
    )  # fmt: skip
    assert str(tmp_path) not in hub.files["README.md"].decode()
    assert b"Trained on My data 2024." in hub.files["README.md"]
    hub.files["README.md"] += b"A person's sentence.\n"
    again = call("export", run, "--push", "hf://org/name", *named)
    assert again.code == 0 and again.line_with("README.md was edited on the hub")
    assert hub.files["README.md"].endswith(b"A person's sentence.\n")

    words = ("hf://org/name", tmp_path / "images", "--device", "cpu", "--precision", "fp32", "-o")
    done = call("predict", *words, tmp_path / "online")
    assert done.code == 0, done.lines
    hub.files.clear()
    go_offline(monkeypatch)
    offline = call("predict", *words, tmp_path / "offline")
    assert offline.code == 0, offline.lines
    first, second = (tmp_path / each / "case_0.nii.gz" for each in ("online", "offline"))
    assert first.read_bytes() == second.read_bytes()

    (blob,) = [path for path in (home / "hub").rglob("blobs/*") if path.stat().st_size > 10_000]
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    bad = call("predict", *words, tmp_path / "bad")
    assert bad.code == 2 and bad.line_with("corrupt") and not (tmp_path / "bad").exists()
    shutil.rmtree(home)
    absent = call("predict", *words, tmp_path / "bad")
    assert absent.code == 1 and absent.line_with("hf://org/name: is not in the cache")
    for each in (pushed, done, bad):
        assert TOKEN not in each.stdout + "".join(each.lines)


def test_a_revision_is_the_file_of_that_commit(hub, tmp_path) -> None:
    run = stub_run(tmp_path / "run").root
    models = []
    for name in ("first", "second"):
        done = call("export", run, "--push", "hf://org/name", "--dataset-name", name, "--overwrite")
        assert done.code == 0, done.lines
        models.append((run / "model.mambamed").read_bytes())
    assert models[0] != models[1] and [len(hub.commits), len(hub.large)] == [2, 2]
    first, second = hub.commits
    for place, model in ((f"@{first}", models[0]), (f"@{second}", models[1]), ("", models[1])):
        assert local_model(Path(f"hf://org/name{place}")).read_bytes() == model
    with pytest.raises(ModelError, match="no such revision"):
        local_model(Path(f"hf://org/name@{'f' * 40}"))


@pytest.mark.parametrize(
    "text",
    [
        "hf://name",
        "hf://a/b/c",
        "hf://a/b@",
        "hf:",
        "hf://../b",
        "hf://a/..",
        "hf://a/b@../x",
        "hf://a/b@v/../x",
    ],
)
def test_what_is_no_reference_is_refused(text) -> None:
    with pytest.raises(ModelError, match="expected hf://org/name"):
        Reference.of(text)
    with pytest.raises(ModelError, match=r"hf://a/b--c: is no name of a repository: .* Correct the name\."):
        local_model(Path("hf://a/b--c"))
    assert local_model(Path("runs/brats")) == Path("runs/brats")
    assert str(Reference.of(Path("hf://org/name@v1.0"))) == "hf://org/name@v1.0"


def test_the_card_states_scores_and_numbers_of_persons_but_not_their_names(tmp_path) -> None:
    """The mean of 0.8, 0.9, 0.7, 0.8, 0.8 is 0.8; six cases of five persons."""
    from mambamed import evaluate
    from tests.faults.fault_files import LABEL, packed

    run = stub_run(tmp_path / "run")
    for number in range(6):
        path = tmp_path / "masks" / f"sub-{'abcdeff'[number]}_ses-{number}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(packed(LABEL))
    scores = tmp_path / "scores"
    evaluate(tmp_path / "masks", tmp_path / "masks", scores, regions="one=1,two=2", report=False)
    run.fold_folder(0).mkdir(exist_ok=True)
    for name in ("summary.json", "cases.csv"):
        shutil.copy(scores / name, run.fold_folder(0) / name)
    run.record(0, {"training_cases": 14, "training_subjects": 11})
    folds: list[FoldName] = [0]
    card = hub_card(run, folds, "# stub\n", None, None)
    assert card.startswith("---\nlibrary_name: ") and '"pipeline_tag' not in card
    assert "Fold 0: trained on 14 cases of 11 subjects, validated on 6 cases of " in card
    assert "| 0 | one | Dice | 1 |" in card
    results = {(each.metric_type, each.metric_value) for each in ModelCard(card).data.eval_results}
    assert {("dice", 1.0), ("hd95", 0.0)} <= results
    assert "| 0 | one | HD95 (mm), max-directed | 0 |" in card
    assert "sub-a" not in card and str(tmp_path) not in card
    assert "did not name the training data" in card and "not stated by the publisher" in card
