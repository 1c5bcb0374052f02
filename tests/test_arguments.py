"""`mambamed.predict` and the others: paths as text, one model or several, checked arguments, help."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import mambamed
from mambamed import api
from mambamed.errors import MambamedError, RecipeError
from tests.answers.stubs import stub_run, write_blobs
from tests.faults.in_process import call

FUNCTIONS = {name: getattr(mambamed, name) for name in mambamed.__all__ if name != "recipes"}
FUNCTIONS |= {f"recipes.{name}": getattr(mambamed.recipes, name) for name in mambamed.recipes.__all__}
PARAMETERS = [
    (name, each)
    for name, function in FUNCTIONS.items()
    for each in inspect.signature(function).parameters
    if each != "progress"
]


@pytest.fixture
def folders(tmp_path):
    run = stub_run(tmp_path / "run")
    write_blobs(tmp_path / "images", 1)
    return run.root, tmp_path / "images", tmp_path / "out"


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_predict_takes_text_or_paths_and_one_model_or_several(folders, kind, several) -> None:
    run, images, output = map(kind, folders)
    summary = mambamed.predict([run] if several else run, images, output, device="cpu", tta="none", folds=0)
    assert not summary.faults
    assert [path.name for path in sorted(folders[2].glob("*.nii.gz"))] == ["case_0.nii.gz"]


def test_an_argument_of_another_kind_is_named(folders) -> None:
    with pytest.raises(RecipeError, match=r"^predict\(\): tta: expected 'mirror' or 'none', got 'no'\."):
        mambamed.predict(*folders, tta="no")
    with pytest.raises(RecipeError, match=r"^predict\(\): output: expected a path, got 3"):
        mambamed.predict(folders[0], folders[1], 3)


# Of required parameters that do not take any text.
VALID = {"epochs": 1, "analysis_level": "participant"}


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS)
def test_every_argument_of_every_function_is_checked(name, parameter) -> None:
    function = FUNCTIONS[name]
    wrong = object()
    needed = {
        each.name: "x"
        for each in inspect.signature(function).parameters.values()
        if each.default is inspect.Parameter.empty
    }
    needed |= {key: value for key, value in VALID.items() if key in needed}
    with pytest.raises(RecipeError, match=rf"^{name}\(\): {parameter}: .+ Correct the argument\.$"):
        function(**needed | {parameter: wrong})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("prepare", ("absent",)),
        ("train", ("absent.yaml",)),
        ("extend", ("absent", 5)),
        ("export", ("absent",)),
        ("predict", ("absent", "absent", "out")),
        ("landmarks", ("absent", "absent", "out")),
        ("classify", ("absent", "absent", "out.csv")),
        ("evaluate", ("absent", "absent")),
        ("compare", (["absent", "other"],)),
        ("convert_points", ("absent", "out.csv")),
        ("import_weights", ("absent.pth", "brats_nnmamba", "out")),
        ("schema", ("absent",)),
        ("recipes.show", ("absent",)),
        ("recipes.check", ("absent",)),
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_every_function_takes_text_and_paths(name, arguments, kind, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = [kind(each) if isinstance(each, str) else each for each in arguments]
    with pytest.raises(MambamedError, match="absent"):
        FUNCTIONS[name](*given)
    assert not list(tmp_path.iterdir())


def test_numbers_and_lists_are_the_text_of_the_command_line(tmp_path) -> None:
    run = stub_run(tmp_path / "run", folds=(0, 1))
    write_blobs(tmp_path / "images", 1)
    with pytest.raises(MambamedError, match="fold 2 is not trained"):
        mambamed.predict(run.root, tmp_path / "images", tmp_path / "out", folds=[0, 2], device="cpu")


def test_runs_and_demo_stay_functions_after_an_import_of_what_they_use(tmp_path) -> None:
    code = (
        "import mambamed, mambamed.run.folder, mambamed.demonstration.phantom, mambamed.recipe.schema\n"
        f"assert mambamed.runs({str(tmp_path)!r}).runs == () == mambamed.runs({str(tmp_path)!r}).runs\n"
        "assert callable(mambamed.demo) and len(mambamed.recipes.list()) > 80\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_the_recipes_are_listed_shown_and_checked(tmp_path) -> None:
    found = mambamed.recipes.list(task="landmarks", network="nnmamba")
    assert "hippocampus_points_nnmamba" in [line.name for line in found]
    assert {(line.task, line.network) for line in found} == {("landmarks", "nnmamba")}
    with pytest.raises(RecipeError, match=r"^--data heads: no recipe has it\. Choose one of acdc, "):
        mambamed.recipes.list(data="heads")
    assert "epochs: 7\n" in mambamed.recipes.show("hippocampus_nnmamba", set="training.epochs=7").text
    assert mambamed.recipes.check("hippocampus_nnmamba") == ["hippocampus_nnmamba"]
    assert mambamed.recipes.schema()["type"] == "object"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_help_describes_every_parameter(name) -> None:
    function = FUNCTIONS[name]
    arguments = inspect.getdoc(function).partition("\n\nArgs:\n")[2].partition("\n\nReturns:")[0]
    described = {line.strip().partition(":")[0] for line in arguments.splitlines() if line[4:5].strip()}
    signature = inspect.signature(function)
    assert described == set(signature.parameters)
    assert "Args (" not in function.__doc__
    assert "AnyPath" not in str(signature) and "'Path" not in str(signature)


def test_the_signature_says_what_is_accepted() -> None:
    shown = str(inspect.signature(mambamed.predict))
    assert shown.startswith("(model: str | Path | list[str | Path], input: str | Path, output: str | Path, ")
    assert "tta: Literal['mirror', 'none'] | None = None" in shown
    assert shown.endswith(" -> PredictSummary")
    assert "(default: from the recipe)" in mambamed.landmarks.__doc__


def test_the_package_lists_its_functions_and_nothing_else() -> None:
    assert dir(mambamed) == sorted([*mambamed.__all__, "__version__"])
    assert dir(mambamed.recipes) == ["check", "list", "new", "schema", "show"]
    verbs = {
        name
        for name, each in vars(api).items()
        if inspect.isfunction(each) and each.__module__ == api.__name__
    }
    verbs -= {"jobs"}  # the name of a package here; from Python it is `mambamed.api.jobs`
    assert {n for n in verbs if not n.startswith(("_", "recipes_"))} == set(mambamed.__all__) - {"recipes"}
    assert pickle.loads(pickle.dumps(mambamed.predict)) is mambamed.predict


def test_no_function_has_the_name_of_a_module() -> None:
    """`import mambamed.NAME` would otherwise replace the function `mambamed.NAME`."""
    package = Path(mambamed.__file__).parent
    modules = {path.stem for path in package.iterdir()} - {"__init__"}
    assert modules & set(mambamed.__all__) == {"recipes"}  # which is a module


@pytest.mark.parametrize(
    ("name", "parameter", "value"),
    [
        ("predict", "overlap", 1.0),
        ("predict", "max_windows", 0),
        ("classify", "threshold", 1.5),
        ("train", "gpus", 0),
        ("train", "max_hours", 0.0),
        ("train", "max_hours", -1.0),
        ("train", "max_hours", float("nan")),
        ("extend", "epochs", 0),
        ("demo", "minutes", 0.0),
        ("prepare", "folds", 1),
        ("prepare", "seed", -1),
        ("evaluate", "worst", -1),
        ("evaluate", "workers", -2),
        ("evaluate", "penalty", -1.0),
        ("compare", "ci", 1.0),
        ("recipes.new", "hours", 0.0),
    ],
)
def test_a_number_out_of_range_is_rejected_before_anything_is_read(name, parameter, value, tmp_path) -> None:
    """By the function and by the command: nothing that the other arguments name exists."""
    function = FUNCTIONS[name]
    required = {
        each.name: 1 if each.name == "epochs" else "absent"
        for each in inspect.signature(function).parameters.values()
        if each.default is inspect.Parameter.empty
    }
    with pytest.raises(RecipeError, match=rf"\(\): {parameter} .*: expected "):
        function(**{**required, parameter: value})
    arguments = ["absent" for each in required if each != "epochs"]
    flag = f"--{parameter.replace('_', '-')}"
    done = call(*name.split("."), *_flags(name, arguments), flag, value)
    assert done.code == 2
    done.line_with(f"{flag} {value:g}: expected ")


def _flags(name: str, arguments: list[str]) -> list[str]:
    """The required arguments as the command line takes them."""
    output = {"predict", "classify"}
    data = {"recipes.new"}
    if name in output:
        return [*arguments[:-1], "-o", arguments[-1]]
    return ["-d", *arguments] if name in data else arguments
