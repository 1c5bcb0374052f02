"""Pages, help and messages are plain technical English: they hold no phrase of the list below."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mambamed.cli.reference import reference
from mambamed.recipe import recipe_schema

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MODULES = sorted((ROOT / "mambamed").rglob("*.py"))

_UNITS = (
    "axis|batch|case|channel|class|column|core|day|device|dimension|epoch|file|fold|GPU|group|label|landmark|layer|"
    "line|measure|network|number|patch|plane|point|process|query|region|row|run|scan|second|seed|shard|stage|"
    "step|structure|subject|task|voxel|window"
)
_BETWEEN = "(?:in|of|for|is|as|to|with|by|from|on|at|into|has|and|or|than|without|be|was|within|over|that|if)"
_MANY = r"(?:an?|one|\d+|patches|seconds|steps|hours)"
# A pattern, and what to write instead.
BANNED = {
    rf"\b{_MANY} (?:(?!{_BETWEEN}\b)[\w-]+ ){{0,2}}an? (?:{_UNITS})\b": "one X per Y",
    rf"\b(?:{_UNITS})s an? (?:{_UNITS})\b": "X per Y",
    r"\b(?:go|goes|going|went) before\b": "override",
    r"\bhears?\b|\bheard\b": "receive, callback",
    r"\bpass(?:ed|es|ing)? over\b": "ignore, skip",
    r"\banew\b": "again",
    r"\bmend(?:s|ed|ing)?\b": "fix, repair",
    r"\btells?\b|\btold\b": "report, warn, show, distinguish",
    r"\b(?:refus(?:e|es|ed|ing|al))\b": "reject",
    r"\bas in (?:`|\d|\w+[=.:,/]\w)": "e.g.",
    r"\bquick(?:er|est|ly)?\b(?! start)": "fast",
    r"\btaught\b|\bteach(?:es)?\b|\bjudg(?:e|es|ed|ing)\b": "chosen on, evaluated by",
    r"\b(?:house|rooms?|belt|stations?|storeys?|verbs?)\b": "package, module, command",
    r"\bway (?:back|out)\b|\bno word\b|\bwithout a word\b": "say what happens",
    r"\b(?:tears?|torn|tearing) (?:apart|a subject)\b|\bstraddles?\b": "split across",
    r"\bkept? apart\b|\bput aside\b|\bin earnest\b|\bwitness(?:es)?\b": "held out, real, independent",
    r"\bparts? from\b|\bset free\b|\bflatters?\b|\bhonest(?:ly)?\b": "plain words",
    r"\bdealt\b|\bgoes? on with\b|\bgoes? on where\b": "assigned, continue",
    r"\bbeside\b": "next to, in addition to, compared with",
    r"\bfor want of\b|\blest\b|\bwhence\b|\bwherein\b|\bthereof\b": "plain words",
}


def found(text: str) -> list[str]:
    """The phrases of the list in a text, each with its surroundings."""
    text = re.sub(r"\s+", " ", re.sub(r"\n\s*\n|\n(?=[-|#])", " ¶ ", text))
    return [
        f"...{text[max(0, hit.start() - 30) : hit.end() + 30]}... -> {better}"
        for pattern, better in BANNED.items()
        for hit in re.finditer(pattern, text, re.IGNORECASE)
    ]


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^```.*?^```", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "`x`", text)


def sentences(module: Path) -> Iterator[tuple[int, str]]:
    """The literals of a module of three words or more, without docstrings, with their lines."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            skipped.update(node.values)
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield node.lineno, "".join(map(str, parts))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node.lineno, node.value


def descriptions(schema: object) -> Iterator[str]:
    """The descriptions of a JSON Schema."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key == "description" and isinstance(value, str):
                yield value
            else:
                yield from descriptions(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from descriptions(value)


def test_the_pages_are_plain() -> None:
    faults = [f"{page.name}: {fault}" for page in PAGES for fault in found(prose(page))]
    assert faults == []


def test_the_messages_of_the_package_are_plain() -> None:
    faults = [
        f"{module.relative_to(ROOT)}:{line}: {fault}"
        for module in MODULES
        for line, text in sentences(module)
        if len(text.split()) >= 3
        for fault in found(text)
    ]
    assert faults == []


def test_the_help_is_plain() -> None:
    assert found(reference()) == []


def test_the_schema_is_plain() -> None:
    assert [fault for text in descriptions(recipe_schema()) for fault in found(text)] == []


@pytest.mark.parametrize(
    ("text", "found_in_it"),
    [
        ("One row a case.", True),
        ("One row per case.", False),
        ("a mask a case", True),
        ("Memory, as in 8G.", True),
        ("Memory, e.g. 8G.", False),
        ("the same as in the paper", False),
        ("--threshold goes before it", True),
        ("patches a second", True),
        ("It computes in a second.", False),
        ("Quick start", False),
        ("it is quicker", True),
        ("three steps in a row", False),
        ("a folder in a case", False),
    ],
)
def test_the_list_finds_what_it_means(text, found_in_it) -> None:
    assert bool(found(text)) is found_in_it
