"""The choice of a converter, and what every folder must hold."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mambamed.cli.commands import make_app
from mambamed.cli.reference import reference
from mambamed.converters import CONVERTERS, convert
from mambamed.errors import DatasetError
from mambamed.recipe import load_recipe, shipped_recipes
from tests.converters.dataset_folders import acdc, brats, touch


def test_what_a_source_without_answers_lacks_is_said(tmp_path) -> None:
    (tmp_path / "points.csv").write_text("case,landmark,x,y,z\na,tip,1,2,3\nb,tip,1,2,3\n")
    with pytest.raises(DatasetError, match=r"a: 0 of 1 images of this case are in .* \(and 1 more cases\)"):
        convert(tmp_path)
    (tmp_path / "points.csv").unlink()
    (tmp_path / "participants.tsv").write_text("participant_id\tside\tage\na\tleft\t70\n")
    touch(tmp_path, "images/a.nii.gz")
    with pytest.raises(DatasetError, match=r"1 case, but no label.*--class-column \(side, age\)"):
        convert(tmp_path)


def test_a_dataset_of_faulty_names_is_named(tmp_path) -> None:
    (tmp_path / "points.csv").write_text("case,landmark,x,y,z\n../x,tip,1,2,3\n")
    with pytest.raises(DatasetError) as caught:
        convert(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: case id '../x': holds a path separator.")


def test_a_folder_without_images_is_one_line(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no images"):
        convert(tmp_path)
    with pytest.raises(DatasetError, match="no such folder"):
        convert(tmp_path / "absent")
    with pytest.raises(DatasetError, match="--format: expected auto, landmarks"):
        convert(tmp_path, "dicomish")


def test_every_converter_is_a_choice_of_the_command_line() -> None:
    section = re.search(r"`--format` ([^|]+) \|", reference())
    assert section is not None and section[1].split(", ") == ["auto", *CONVERTERS]
    refused = CliRunner().invoke(make_app(), ["prepare", "anything", "--format", "tiff"])
    assert refused.exit_code == 2 and "'tiff' is not one of 'auto'" in refused.output


def test_the_names_of_formats_are_known_without_the_readers() -> None:
    code = (
        "import sys, mambamed.converters; print(sorted({'numpy', 'pydantic', 'nibabel'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def amos(folder: Path) -> Path:
    cases = ("amos_0004", "amos_0500")
    return touch(folder, *[f"{side}Tr/{c}.nii.gz" for side in ("images", "labels") for c in cases])


def synapse(folder: Path) -> Path:
    return touch(folder, "Training/img/img0001.nii.gz", "Training/label/label0001.nii.gz")


def two_patients(folder: Path) -> Path:
    acdc(folder / "training", "patient001", "DCM", 12)
    return folder


def one_glioma(folder: Path) -> Path:
    return brats(folder, "BraTS-GLI-00005-000", "t1n t1c t2w t2f seg", "-")


@pytest.mark.parametrize(
    ("build", "recipe"),
    [
        (amos, "amos_ct_nnmamba"),
        (amos, "amos_mr_nnunet"),
        (synapse, "synapse_nnunet"),
        (two_patients, "acdc_nnunet"),
        (one_glioma, "brats_nnmamba"),
    ],
)
def test_a_recipe_finds_its_channels_and_labels_in_the_downloaded_folder(tmp_path, build, recipe) -> None:
    """By itself, and with the command of its header."""
    wanted = load_recipe(recipe).dataset
    folder = build(tmp_path)
    command = re.search(r"mambamed prepare .*", shipped_recipes()[recipe].read_text(encoding="utf-8"))
    assert command is not None
    asked = re.search(r"--format (\S+)", command[0])
    assert asked is not None or recipe == "brats_nnmamba"
    for format in ("auto", asked[1] if asked else "brats"):
        manifest = convert(folder, format, channels=wanted.channels, labels=wanted.labels).manifest
        assert manifest.channels == wanted.channels
        assert manifest.labels == wanted.labels
