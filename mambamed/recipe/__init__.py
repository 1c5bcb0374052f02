"""Recipes: schema, loading with `extends` and overrides, shipped recipes, JSON Schema."""

from mambamed.recipe.commented import Choice, commented_recipe
from mambamed.recipe.loading import (
    RecipeLine,
    describe_recipes,
    dump_recipe,
    load_recipe,
    overridden,
    parse_recipe,
    parse_recipe_of_run,
    recipe_and_faults,
    recipe_schema,
    select_recipes,
    shipped_recipes,
)
from mambamed.recipe.schema import (
    Augment,
    Evaluation,
    Inference,
    Loss,
    Optimizer,
    Preprocess,
    Recipe,
    Schedule,
    Split,
    Training,
)

__all__ = [
    "Augment",
    "Choice",
    "Evaluation",
    "Inference",
    "Loss",
    "Optimizer",
    "Preprocess",
    "Recipe",
    "RecipeLine",
    "Schedule",
    "Split",
    "Training",
    "commented_recipe",
    "describe_recipes",
    "dump_recipe",
    "load_recipe",
    "overridden",
    "parse_recipe",
    "parse_recipe_of_run",
    "recipe_and_faults",
    "recipe_schema",
    "select_recipes",
    "shipped_recipes",
]
