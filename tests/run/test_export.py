"""A run as one file: it predicts as the run does, and a file that was tampered with is refused."""

import hashlib
import json
import tempfile
import zipfile

import pytest
import torch

from mambamed.api import predict
from mambamed.errors import ModelError, RecipeError
from mambamed.recipe import Recipe, dump_recipe
from mambamed.run.checkpoint import encode_checkpoint, read_checkpoint, write_checkpoint
from mambamed.run.export import export_model, open_model
from mambamed.run.model import load_network
from mambamed.run.thresholds import write_thresholds
from mambamed.volumes.ensemble import load_ensemble
from tests.answers.stubs import MANIFEST, stub_run, write_blobs
from tests.faults.fault_files import VOXELS, packed
from tests.faults.in_process import call


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return stub_run(tmp_path_factory.mktemp("export") / "run", folds=(0, 1))


@pytest.fixture
def model(run, tmp_path):
    return export_model(run.root, tmp_path / "model.mambamed").output


def masks_of(models, images, output):
    predict(models, images, output, device="cpu", precision="fp32", tta="none")
    return {path.name: path.read_bytes() for path in sorted(output.glob("*.nii.gz"))}


def rewritten(model, target, change=lambda name, data: data, extra=(), compression=zipfile.ZIP_STORED):
    """The same file with other members."""
    with zipfile.ZipFile(model) as source, zipfile.ZipFile(target, "w", compression) as out:
        for info in source.infolist():
            data = change(info.filename, source.read(info))
            if data is not None:
                out.writestr(info.filename, data)
        for name, data in extra:
            out.writestr(name, data)
    return target


def consistent(model, target, change):
    """The same file with other members, and an index that knows them: made by a stranger, not damaged."""
    with zipfile.ZipFile(model) as source:
        members = {info.filename: source.read(info) for info in source.infolist()}
    index = json.loads(members.pop("model.json"))
    members = {n: d for name, data in members.items() for n, d in [(name, change(name, data))]}
    sizes = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in members.items()}
    with zipfile.ZipFile(target, "w") as out:
        for name, data in {**members, "model.json": json.dumps({**index, "members": sizes}).encode()}.items():
            out.writestr(name, data)
    return target


def test_the_file_gives_the_masks_of_the_run_bit_for_bit(run, model, tmp_path) -> None:
    write_blobs(tmp_path / "images", 2)
    assert masks_of([run.root], tmp_path / "images", tmp_path / "of_run") == masks_of(
        [model], tmp_path / "images", tmp_path / "of_file"
    )
    masks_of([model, run.root], tmp_path / "images", tmp_path / "of_both")


def test_the_file_swaps_left_and_right_as_the_run_does(tmp_path) -> None:
    labels = {"background": 0, "left": 1, "right": 5}
    run = stub_run(tmp_path / "run", manifest=MANIFEST.changed(labels=labels))
    exported = load_ensemble([export_model(run.root, tmp_path / "model.mambamed").output])
    (member,) = exported.members
    assert member.windows.mirror_order == (0, 2, 1) and member.windows.mirror_axes == (0, 1, 2)
    assert exported.described()["members"][0]["mirror_order"] == [0, 2, 1]


def test_the_same_run_gives_the_same_bytes_and_no_place_of_its_data(run, model, tmp_path) -> None:
    moved = run.recipe.model_copy(
        update={"dataset": run.recipe.dataset.model_copy(update={"prepared": "/home/somebody/data"})}
    )
    (run.root / "recipe.yaml").write_text(dump_recipe(moved))
    again = export_model(run.root, tmp_path / "again.mambamed")
    (run.root / "recipe.yaml").write_text(dump_recipe(run.recipe))
    assert again.output.read_bytes() == model.read_bytes()
    assert b"somebody" not in model.read_bytes() and again.folds == (0, 1)
    with zipfile.ZipFile(model) as archive:
        assert "nnmamba" in archive.read("card.md").decode()


def test_the_moving_average_is_what_is_exported_and_what_validation_taught_goes_along(tmp_path) -> None:
    run = stub_run(tmp_path / "run")
    weights = read_checkpoint(run.checkpoint(0)).part("network")
    average = {f"ema.{name}": tensor + 1 for name, tensor in weights.items()}
    optimizer = {"optimizer.x": torch.zeros(1000)}
    network = {f"network.{name}": tensor for name, tensor in weights.items()}
    write_checkpoint(
        run.checkpoint(0, "last"), {**network, **average, **optimizer}, {"counters": {"best_epoch": 7}}
    )
    write_thresholds(run, 0, {"nose": 0.25}, 3)
    summary = export_model(run.root, checkpoint="last")
    assert summary.output == run.root / "model.mambamed" and summary.bytes == summary.output.stat().st_size
    opened = open_model(summary.output)
    content = read_checkpoint(opened.weights(0))
    assert content.facts["exported"] == "last" and set(content.tensors) == set(network)
    assert all(torch.equal(content.part("network")[n], tensor + 1) for n, tensor in weights.items())
    thresholds = opened.find("fold_0/thresholds.json")
    assert json.loads(thresholds.read_bytes())["thresholds"] == {"nose": 0.25}


def test_chosen_folds_alone_are_exported(run, tmp_path) -> None:
    summary = export_model(run.root, tmp_path / "one.mambamed", folds="1")
    assert open_model(summary.output).folds == [1] and summary.folds == (1,)
    with pytest.raises(ModelError, match="fold 4 is not trained"):
        export_model(run.root, tmp_path / "no.mambamed", folds="4")
    with pytest.raises(RecipeError, match="--folds x"):
        export_model(run.root, tmp_path / "no.mambamed", folds="x")
    with pytest.raises(ModelError, match=r"ends in \.mambamed"):
        export_model(run.root, tmp_path / "no.zip")
    assert not (tmp_path / "no.mambamed").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../../CANARY",
        "/CANARY",
        "fold_0/../../CANARY",
        "fold_0/link",
        "Recipe.yaml",
        "weights.pt",
        "x\\y",
    ],
)
def test_a_member_of_another_name_is_refused_before_anything_is_written(model, tmp_path, name) -> None:
    bad = rewritten(model, tmp_path / "bad.mambamed", extra=[(name, b"x")])
    with pytest.raises(ModelError, match="Do not trust this file") as error:
        open_model(bad)
    assert "CANARY" not in name or "CANARY" in str(error.value)
    assert not list(tmp_path.rglob("CANARY"))


def test_a_bomb_and_a_document_too_large_are_refused_by_their_headers(model, tmp_path) -> None:
    compressed = rewritten(model, tmp_path / "bomb.mambamed", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="is compressed"):
        open_model(compressed)

    def longer(name, data):
        return data + b" " * 2**23 if name == "plan.json" else data

    with pytest.raises(ModelError, match=r"plan\.json' is a document of"):
        open_model(rewritten(model, tmp_path / "long.mambamed", longer))


def test_changed_lost_and_foreign_bytes_are_told(run, model, tmp_path) -> None:
    whole = model.read_bytes()
    for count, match in ((len(whole) // 2, "not a complete model file"), (0, "not a complete model file")):
        (tmp_path / "cut.mambamed").write_bytes(whole[:count])
        with pytest.raises(ModelError, match=match):
            open_model(tmp_path / "cut.mambamed")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    (tmp_path / "flipped.mambamed").write_bytes(flipped)
    with pytest.raises(ModelError, match="corrupt"):
        open_model(tmp_path / "flipped.mambamed")

    before = bytearray(whole)  # a directory that seems to begin later puts its members before the file
    begins = whole.rindex(b"PK\5\6") + 16
    before[begins : begins + 4] = (int.from_bytes(whole[begins : begins + 4], "little") + 10**6).to_bytes(
        4, "little"
    )
    (tmp_path / "before.mambamed").write_bytes(before)
    with pytest.raises(ModelError, match="does not lie in the file"):
        open_model(tmp_path / "before.mambamed")

    def other_weights(name, data):
        return data[:-4] + b"\0\0\0\1" if name.endswith("safetensors") else data

    with pytest.raises(ModelError, match="sha256 differs from the recorded one"):
        open_model(rewritten(model, tmp_path / "other.mambamed", other_weights))
    with pytest.raises(ModelError, match=r"no plan\.json"):
        open_model(rewritten(model, tmp_path / "less.mambamed", lambda n, d: None if n == "plan.json" else d))
    with pytest.raises(ModelError, match=r"members: expected those listed"):
        open_model(rewritten(model, tmp_path / "less.mambamed", lambda n, d: None if "fold_1" in n else d))
    with pytest.raises(ModelError, match="no such run folder or model file"):
        open_model(tmp_path / "absent.mambamed")


def test_a_newer_format_is_named(model, tmp_path) -> None:
    def newer(name, data):
        return json.dumps({**json.loads(data), "format": 999}) if name == "model.json" else data

    with pytest.raises(ModelError, match="format: expected at most 1, got 999"):
        open_model(rewritten(model, tmp_path / "newer.mambamed", newer))


def test_a_model_file_is_read_where_it_is(model, tmp_path, monkeypatch) -> None:
    """F6 and F7: nothing is unpacked, so that a full or absent TMPDIR does not matter."""
    before = set(tmp_path.rglob("*"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    run = open_model(model)
    weights = load_network(run, 1).state_dict()
    assert torch.equal(weights["stem.0.weight"], load_network(run, 1).state_dict()["stem.0.weight"])
    assert run.root == model and run.folds == [0, 1] and set(tmp_path.rglob("*")) == before


def test_a_model_file_that_is_replaced_while_it_is_used_is_named(model, tmp_path) -> None:
    run = open_model(model)
    other = rewritten(model, tmp_path / "other", lambda name, data: data)
    other.replace(model)
    with pytest.raises(ModelError, match=r"model\.mambamed: was changed while it was read"):
        load_network(run, 0)


def swapped(member, old, new):
    def change(name, data):
        assert name != member or old in data, member
        return data.replace(old, new) if name == member else data

    return change


@pytest.mark.parametrize(
    ("member", "old", "new", "line"),
    [
        ("plan.json", b'"zscore"', b'"future"', "plan.json: normalization.0.scheme: expected one of 'ct', "),
        (
            "plan.json",
            b'"format": 1',
            b'"format": 2',
            "plan.json: format: expected at most 1, got 2: a newer",
        ),
        ("plan.json", b"]", b"}", "plan.json: not valid JSON at line 7 column 2"),
        ("dataset.json", b'"mri"', b'"ct"\xff', "dataset.json: is not UTF-8 text."),
        (
            "dataset.json",
            b'"two": 5',
            b'"two": 70000',
            "dataset.json: labels.two: expected less than or equal t",
        ),
        (
            "recipe.yaml",
            b"fill_holes: []",
            b"fill_holes: [x]",
            "recipe.yaml: inference.postprocess.fill_holes: 'x'",
        ),
        ("recipe.yaml", b"covariates: {}", b"covariates: {sex: []}", "recipe.yaml:"),
        (
            "dataset.json",
            b'"one": 1',
            b'"one": 5',
            "dataset.json: content: labels: ['one', 'two'] share the value 5",
        ),
        ("recipe.yaml", b"nnmamba", b"!!python/name:os.system", "recipe.yaml:"),
        ("recipe.yaml", b"network:", b"extends: brats_nnmamba\nnetwork:", "recipe.yaml:"),
        ("recipe.yaml", b"task: segmentation", b"task: future", "recipe.yaml:1: task: expected '"),
    ],
)
def test_a_fault_in_a_member_names_the_file_and_the_member(model, tmp_path, member, old, new, line) -> None:
    """F9: not a folder that the user never saw."""
    bad = consistent(model, tmp_path / "bad.mambamed", swapped(member, old, new))
    with pytest.raises(ModelError) as caught:
        open_model(bad)
    lines = str(caught.value).splitlines()
    assert all(each.startswith(f"{bad}: {line}") for each in lines) and ".." not in str(caught.value)


def with_weights(model, target, change):
    """The file with another state dict in fold 0."""

    def changed(name, data):
        if name != "fold_0/checkpoint_best.safetensors":
            return data
        (target.parent / "w").write_bytes(data)
        content = read_checkpoint(target.parent / "w")
        return encode_checkpoint(change(dict(content.tensors)), content.facts)

    return consistent(model, target, changed)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda own: own | {"network.stem.0.weight": torch.ones(2)}, "stem.0.weight is (2,) instead of ("),
        (lambda own: {n: w for n, w in own.items() if n != "network.stem.0.weight"}, "no stem.0.weight"),
        (lambda own: own | {"network.more": torch.ones(2)}, "unknown more"),
        (
            lambda own: own | {"network.stem.0.weight": own["network.stem.0.weight"] / 0},
            "contains NaN or Inf",
        ),
        (lambda own: own | {"network.stem.0.weight": own["network.stem.0.weight"].int()}, "is int32 instead"),
    ],
)
def test_weights_of_another_network_name_the_file_and_the_member(model, tmp_path, change, fact) -> None:
    bad = with_weights(model, tmp_path / "bad.mambamed", change)
    with pytest.raises(ModelError) as caught:
        load_network(open_model(bad), 0)
    assert str(caught.value).startswith(f"{bad}: fold_0/checkpoint_best.safetensors: ")
    assert fact in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_pytorch_are_told_from_a_model_file(tmp_path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth: holds weights of PyTorch alone\. Use 'mambamed import-we"):
        open_model(tmp_path / "w.pth")


def test_the_checkpoint_last_of_a_model_file_is_explained(model) -> None:
    with pytest.raises(ModelError, match=r"model\.mambamed: fold_0/checkpoint_last.*one checkpoint per fold"):
        load_network(open_model(model), 0, "last")


MARKER = "Zzmarker"


def test_a_model_file_names_no_case_no_folder_and_no_person(tmp_path) -> None:
    """F8: every text of a run that names something of its makers holds a marker."""
    root = tmp_path / MARKER / "run"
    run = stub_run(root, manifest=MANIFEST.changed(name=f"{MARKER} list"))
    split = {"test_cases": [f"{MARKER}_001"], "group_by": f"{MARKER} ward", "stratify": f"{MARKER} site"}
    recipe = run.recipe.model_dump(mode="json") | {"name": "tumors"}
    recipe["dataset"] |= {"prepared": f"/home/{MARKER}/prepared", "split": split}
    (root / "recipe.yaml").write_text(dump_recipe(Recipe.model_validate(recipe)))
    tensors = read_checkpoint(run.checkpoint(0)).tensors
    facts = {"epoch": 7, "score": 0.5, "imported_from": f"{MARKER}.pth", "axis_order": "zyx"}
    write_checkpoint(run.checkpoint(0), tensors, facts)
    record = {"prepared": f"/home/{MARKER}", "sessions": [], "steps": 3}
    run.record(0, record)
    for name in ("train.log", "log.csv", "wandb_id"):
        (run.fold_folder(0) / name).write_text(MARKER)
    file = export_model(root, tmp_path / "model.mambamed").output
    assert MARKER.encode() not in file.read_bytes()
    opened = open_model(file)
    assert opened.manifest.name == "tumors" and read_checkpoint(opened.weights(0)).facts["epoch"] == 7
    named = export_model(root, tmp_path / "named.mambamed", dataset_name="BraTS 2021").output
    assert open_model(named).manifest.name == "BraTS 2021"
    with zipfile.ZipFile(named) as archive:
        assert "- trained on: BraTS 2021\n" in archive.read("card.md").decode()


def test_a_model_file_of_a_whole_workflow_names_nothing_of_its_makers(tmp_path) -> None:
    """F8: as the commands write it: list, folders and cases hold a marker."""
    home = tmp_path / MARKER
    (home / "raw").mkdir(parents=True)
    for number in range(6):
        (home / "raw" / f"{MARKER}{number}.nii.gz").write_bytes(packed(VOXELS + number))
    rows = [f"{MARKER}{n},{MARKER}s{n},{MARKER}{n}.nii.gz,{'ill' if n % 2 else 'well'}" for n in range(6)]
    (home / "raw" / f"{MARKER}.csv").write_text("\n".join(["case,subject,T1,class", *rows, ""]))
    (home / f"{MARKER}.yaml").write_text(
        "name: small\ntask: classification\nnetwork: {name: resnet, channels: 2}\n"
        f"dataset: {{split: {{folds: 2, test_cases: [{MARKER}5]}}}}\n"
        "training: {epochs: 1, steps_per_epoch: 1, batch_size: 2, patch_size: [16, 16, 16]}\n"
    )
    recipe, quick = home / f"{MARKER}.yaml", ("--device", "cpu", "--precision", "fp32", "-q")
    prepared = ("-o", home / "prepared", "--recipe", recipe, "--workers", "1", "-q")
    assert call("prepare", home / "raw" / f"{MARKER}.csv", *prepared).code == 0
    assert call("train", recipe, "-d", home / "prepared", "-o", home / "run", *quick).code == 0
    assert MARKER in (home / "run" / "recipe.yaml").read_text()
    assert call("export", home / "run", "-o", tmp_path / "m.mambamed", "--checkpoint", "last").code == 0
    assert MARKER.encode() not in (tmp_path / "m.mambamed").read_bytes()
    done = call("classify", tmp_path / "m.mambamed", home / "raw", "-o", tmp_path / "p.csv", *quick)
    assert done.code == 0, done


def test_the_name_of_a_model_file_in_records_is_that_of_the_file(model, tmp_path) -> None:
    write_blobs(tmp_path / "images", 1)
    masks_of([model], tmp_path / "images", tmp_path / "out")
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    (member,) = record["settings"]["members"]
    digest = hashlib.sha256(zipfile.ZipFile(model).read("fold_0/checkpoint_best.safetensors")).hexdigest()
    assert member["run"] == "model.mambamed" and member["checkpoints"]["fold_0"] == digest
