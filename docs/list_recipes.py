"""Prints docs/recipes.md, the list of the shipped recipes.

    python docs/list_recipes.py > docs/recipes.md

`tests/test_recipes.py` fails where the page is older than the recipes.
"""

from __future__ import annotations

import itertools

from mambamed.recipe import RecipeLine, describe_recipes, load_recipe

HEAD = """# Recipes

A recipe is one YAML file: dataset, network, training schedule, and the results reported in the paper. Its
header comment states its purpose, the commands to run, and the differences from the paper. A recipe that
`extends` another one holds only the keys that differ.

```sh
mambamed recipes list
mambamed recipes show acdc_mamba_bi
mambamed train acdc_mamba_bi --dry-run
```

`show` prints the recipe with all defaults filled in, and the cost of its network. `--dry-run` runs one
training step; if no dataset is prepared yet, it uses random data of the same shape. If memory is
insufficient, the step uses fewer patches or gradient checkpointing, and the memory that training needs is
reported. To write your own recipe, create a file with `extends: acdc_mamba_bi` and the keys that differ.
`mambamed recipes check FILE` checks it: unknown keys, invalid values and keys that have no effect for the
task are reported with their line. The optional key `schema: 1` states the version of the schema.

Results are those reported in the papers: Dice in percent, HD95 and MRE in mm, averaged over structures, and
other measures as named. They are not comparable between tables. A recipe without results has no counterpart
in a paper; its header says so.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    ordered = sorted(describe_recipes(), key=lambda line: (line.task, line.data, line.name))
    for (task, data), lines in itertools.groupby(ordered, key=lambda line: (line.task, line.data)):
        parts.append(f"\n## {task.capitalize()}: {data.replace('_', ' ') or 'no dataset named'}\n")
        parts.append("| recipe | network | description | reported in the paper |\n|---|---|---|---|")
        parts += [_row(line) for line in lines]
    return "\n".join(parts) + "\n"


def _row(line: RecipeLine) -> str:
    paper = load_recipe(line.name).paper
    numbers = {key: value for key, value in paper.items() if not isinstance(value, str)}
    shown = {key: value for key, value in numbers.items() if key.startswith("Average")} or numbers
    average = "MRE" if line.task == "landmarks" else "Dice"
    reported = ", ".join(
        f"{key.removeprefix('Average ').replace('Average', average)} {v:g}" for key, v in shown.items()
    )
    return f"| `{line.name}` | `{line.network}` | {line.headline} | {reported} |"


if __name__ == "__main__":
    print(page(), end="")
