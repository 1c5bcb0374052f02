"""Prints docs/recipes.md, the list of the shipped recipes.

    python docs/list_recipes.py > docs/recipes.md

`tests/test_recipes.py` fails where the page is older than the recipes.
"""

from __future__ import annotations

import itertools

from mambamed.recipe import RecipeLine, describe_recipes, load_recipe

HEAD = """# Recipes

A recipe is one page: data, network, schedule, and the paper's numbers. Its first lines say what it
is for, which commands it needs, what is as in the paper and what differs. One that
`extends` another holds only what differs: a control, or a baseline of the same table.

```sh
mambamed recipes list
mambamed recipes show acdc_mamba_bi
mambamed train acdc_mamba_bi --dry-run
```

`show` prints the recipe with every default filled in, and what its network costs. `--dry-run` takes one step;
where nothing is prepared yet, on random numbers of the recipe's shapes. A machine without the memory for it
takes the step with fewer patches, or with gradient checkpointing too, and says what training needs.
To start your own, write a file with `extends: acdc_mamba_bi` and the keys that differ.

Numbers are the papers' own, Dice in per cent, HD95 and MRE in mm as averages over structures, and other
measures as named; they are not comparable between tables. A recipe without a number has no row in any of
the papers' tables, and says so.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    ordered = sorted(describe_recipes(), key=lambda line: (line.task, line.data, line.name))
    for (task, data), lines in itertools.groupby(ordered, key=lambda line: (line.task, line.data)):
        parts.append(f"\n## {task.capitalize()}: {data.replace('_', ' ') or 'no dataset named'}\n")
        parts.append("| recipe | network | what | in the paper |\n|---|---|---|---|")
        parts += [_row(line) for line in lines]
    return "\n".join(parts) + "\n"


def _row(line: RecipeLine) -> str:
    paper = load_recipe(line.name).paper
    numbers = {key: value for key, value in paper.items() if not isinstance(value, str)}
    shown = {key: value for key, value in numbers.items() if key.startswith("Average")} or numbers
    average = "MRE" if line.task == "landmarks" else "Dice"
    told = ", ".join(
        f"{key.removeprefix('Average ').replace('Average', average)} {v:g}" for key, v in shown.items()
    )
    return f"| `{line.name}` | `{line.network}` | {line.headline} | {told} |"


if __name__ == "__main__":
    print(page(), end="")
