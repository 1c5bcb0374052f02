"""`mambamed schema`: every document has a JSON Schema, and what mambamed wrote is valid by it.

The validator below is written from the specification (JSON Schema draft 2020-12), of the words that occur.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

import mambamed
from mambamed.cli.commands import make_app
from mambamed.documents.base import Document
from mambamed.documents.schemas import KINDS
from mambamed.errors import MambamedError, RecipeError
from mambamed.io.ledger import LEDGER_NAME, Ledger
from mambamed.recipe import dump_recipe, load_recipe
from tests.documents.examples import EXAMPLES
from tests.documents.test_mutations import models

SAMPLES = Path(__file__).parent / "samples" / "0.1.0"
FILES = {
    "prepared-dataset": "*/prepared/dataset.json",
    "case": "*/prepared/cases/*.json",
    "fingerprint": "*/prepared/fingerprint.json",
    "plan": "*/*/plan.json",
    "splits": "*/prepared/splits.json",
    "dataset": "*/run/dataset.json",
    "run": "*/run/run.json",
    "checkpoint": "*/run/fold_0/checkpoint_*.json",
    "thresholds": "*/run/fold_0/thresholds.json",
    "calibration": "*/run/fold_0/calibration.json",
    "model": "*/model.json",
    "prediction": "*/prediction/*run.json",
    "points": "*/prediction/c1.json",
}
ANNOTATIONS = {"title", "description", "default", "$defs", "discriminator", "examples"}


def fault(value: Any, schema: Any, root: Any) -> str:
    """What violates a schema; empty if nothing does. A word that is not known here fails."""
    if isinstance(schema, bool):
        return "" if schema else "not allowed"
    for word, wish in schema.items():
        if word not in ANNOTATIONS and (found := WORDS[word](value, wish, schema, root)):
            return found if isinstance(found, str) else f"{word} {wish}: {value!r:.60}"
    return ""


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


TYPES = {
    "null": lambda v: v is None,
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: is_number(v) and (isinstance(v, int) or v.is_integer()),
    "number": is_number,
    "string": lambda v: isinstance(v, str),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
}


def _defined(value: Any, wish: str, schema: Any, root: Any) -> str:
    return fault(value, root["$defs"][wish.removeprefix("#/$defs/")], root)


def _members(value: Any, wish: Any, schema: Any, root: Any) -> str:
    known = [key for key in wish if isinstance(value, dict) and key in value]
    return next((f"{key}: {found}" for key in known if (found := fault(value[key], wish[key], root))), "")


def _others(value: Any, wish: Any, schema: Any, root: Any) -> str:
    patterns = schema.get("patternProperties", {})
    others = [
        key
        for key in (value if isinstance(value, dict) else ())
        if key not in schema.get("properties", {}) and not any(re.search(p, key) for p in patterns)
    ]
    return next((f"{key}: {found}" for key in others if (found := fault(value[key], wish, root))), "")


def _by_pattern(value: Any, wish: Any, schema: Any, root: Any) -> str:
    keys = value if isinstance(value, dict) else ()
    pairs = ((key, inner) for key in keys for pattern, inner in wish.items() if re.search(pattern, key))
    return next((f"{key}: {found}" for key, inner in pairs if (found := fault(value[key], inner, root))), "")


def _items(value: Any, wish: Any, schema: Any, root: Any) -> str:
    rest = value[len(schema.get("prefixItems", ())) :] if isinstance(value, list) else ()
    return next((f"[]: {found}" for item in rest if (found := fault(item, wish, root))), "")


def _first_items(value: Any, wish: Any, schema: Any, root: Any) -> str:
    pairs = zip(value, wish, strict=False) if isinstance(value, list) else ()
    return next((f"[]: {found}" for item, inner in pairs if (found := fault(item, inner, root))), "")


WORDS: dict[str, Any] = {
    "$ref": _defined,
    "type": lambda v, wish, *_: not TYPES[wish](v),
    "enum": lambda v, wish, *_: v not in wish,
    "const": lambda v, wish, *_: v != wish,
    "minimum": lambda v, wish, *_: is_number(v) and v < wish,
    "maximum": lambda v, wish, *_: is_number(v) and v > wish,
    "exclusiveMinimum": lambda v, wish, *_: is_number(v) and v <= wish,
    "exclusiveMaximum": lambda v, wish, *_: is_number(v) and v >= wish,
    "minLength": lambda v, wish, *_: isinstance(v, str) and len(v) < wish,
    "maxLength": lambda v, wish, *_: isinstance(v, str) and len(v) > wish,
    "pattern": lambda v, wish, *_: isinstance(v, str) and not re.search(wish, v),
    "minItems": lambda v, wish, *_: isinstance(v, list) and len(v) < wish,
    "maxItems": lambda v, wish, *_: isinstance(v, list) and len(v) > wish,
    "minProperties": lambda v, wish, *_: isinstance(v, dict) and len(v) < wish,
    "propertyNames": lambda v, wish, _, root: next((f for k in v if (f := fault(k, wish, root))), ""),
    "required": lambda v, wish, *_: isinstance(v, dict) and not set(wish) <= set(v),
    "properties": _members,
    "patternProperties": _by_pattern,
    "additionalProperties": _others,
    "prefixItems": _first_items,
    "items": _items,
    "anyOf": lambda v, wish, _, root: all(fault(v, each, root) for each in wish),
    "oneOf": lambda v, wish, _, root: sum(not fault(v, each, root) for each in wish) != 1,
    "uniqueItems": lambda v, wish, *_: len({json.dumps(item) for item in v}) < len(v),
}


def invalid(value: Any, kind: str) -> str:
    schema = mambamed.schema(kind)
    assert isinstance(schema, dict)
    return fault(value, schema, schema)


@pytest.mark.parametrize("kind", FILES)
def test_files_that_mambamed_wrote_are_valid(kind) -> None:
    files = sorted(SAMPLES.glob(FILES[kind]))
    assert files
    assert not [found for file in files if (found := invalid(json.loads(file.read_text()), kind))]


def test_a_summary_is_valid_by_the_schema_of_evaluations() -> None:
    for model, example in EXAMPLES:
        if model.__name__.endswith("Summary"):
            assert not invalid(model.checked(example, Path("summary.json")).to_json(), "evaluation")


def test_a_recipe_is_valid() -> None:
    import yaml

    assert not invalid(yaml.safe_load(dump_recipe(load_recipe("brats_nnmamba"))), "recipe")


def test_the_lines_of_a_list_of_files_are_valid(tmp_path) -> None:
    ledger = Ledger(tmp_path)
    ledger.begin("test", "here", ["a"])
    (tmp_path / "a").touch()
    ledger.remove("a")
    ledger.made_from("there")
    lines = [json.loads(line) for line in (tmp_path / LEDGER_NAME).read_text().splitlines()]
    assert len(lines) == 4 and not [found for line in lines if (found := invalid(line, "files"))]


@pytest.mark.parametrize(("model", "example"), EXAMPLES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_schema_allows_what_is_read_and_no_other_type(model, example) -> None:
    kinds = [kind for kind, (_, content) in KINDS.items() if model is content or model in get_args(content)]
    if kinds:
        assert not invalid(example, kinds[0])
        wrong = {key: [[]] for key in example if key != "format"}
        for key, value in wrong.items():
            with pytest.raises(MambamedError):
                model.checked({**example, key: value}, Path("a.json"))
            assert invalid({**example, key: value}, kinds[0]), key


def test_every_document_is_in_the_table() -> None:
    contents = {part for _, content in KINDS.values() for part in (content, *get_args(content))}
    bases = {"Summary", "SparseDocument", "Document"}
    missing = {m for m in models() if issubclass(m, Document) and m.__name__ not in bases} - contents
    assert not missing, f"add {missing} to mambamed/documents/schemas.py"


def test_a_schema_is_json() -> None:
    for kind in KINDS:
        schema = mambamed.schema(kind)
        assert json.loads(json.dumps(schema, allow_nan=False)) == schema  # JSON has no NaN


def test_the_command_lists_the_kinds_and_prints_a_schema() -> None:
    runner = CliRunner()
    listed = runner.invoke(make_app(), ["schema", "--json"])
    assert [line["kind"] for line in json.loads(listed.stdout)] == list(KINDS)
    assert "plan.json" in runner.invoke(make_app(), ["schema"]).stdout
    assert json.loads(runner.invoke(make_app(), ["schema", "plan"]).stdout) == mambamed.schema("plan")


def test_a_misspelled_kind_is_suggested() -> None:
    with pytest.raises(RecipeError, match=r"^schema: no kind of document 'plann' - did you mean 'plan'\?$"):
        mambamed.schema("plann")
    with pytest.raises(RecipeError, match="Choose one of recipe, "):
        mambamed.schema("\n")


def test_the_validator_of_this_file_finds_faults() -> None:
    plan = json.loads((SAMPLES / "segmentation/run/plan.json").read_text())
    for key, value in {"spacing_mm": [1, 1], "crop": "future", "batch_size": True, "more": 1}.items():
        assert invalid({**plan, key: value}, "plan"), key
    assert invalid({**plan, "normalization": [{"scheme": "future"}]}, "plan")
