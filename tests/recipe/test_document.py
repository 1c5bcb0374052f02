"""Scalars are those of the YAML 1.2 core schema (yaml.org/spec/1.2.2, section 10.3.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambamed.errors import RecipeError
from mambamed.recipe.document import parse_document, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-3", 0.002),
        ("1E4", 10000.0),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("true", True),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("12:30:45", "12:30:45"),
        ("2024-02-05", "2024-02-05"),
        ("-.inf", float("-inf")),
        ("null", None),
        ("'7'", "7"),
        ("[1, two]", [1, "two"]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value) -> None:
    parsed = parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "a.yaml:2: a: duplicate key"),
        ("a: !!python/object/apply:os.system ['true']\n", "a.yaml:1"),
        ("a: !!python/name:os.system\n", "not allowed"),
        ("a: &x 1\nb: *x\n", "anchors"),
        ("a: [1\n", "not valid YAML"),
        ("- 1\n", "holds no keys"),
        ("", "holds no keys"),
        ("a: " + "[" * 5000, "a.yaml"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper"),
        ("x: 1\n" * 300_000, "characters"),
        ("a: !!int x\n", "not allowed"),
        ("? [1, 2]\n: 3\n", "plain text"),
    ],
)
def test_what_a_recipe_may_not_hold_is_one_line(text, words) -> None:
    with pytest.raises(RecipeError, match=words.replace("[", r"\[")) as caught:
        parse_document(text, "a.yaml")
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#?,\n\t 0123456789.eE~\\", max_size=60))
def test_any_text_gives_values_or_our_own_error(text) -> None:
    try:
        values, origins = parse_document(text, "a.yaml")
    except RecipeError:
        return
    assert isinstance(values, dict)
    assert all((key,) in origins for key in values)
