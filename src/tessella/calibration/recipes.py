"""Write recipes to files; `core.recipe.read_recipe` reads them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ..core.recipe import Recipe
from ..pictures.saving import check_target, save_bytes


def check_recipe_target(path: str | Path) -> Path:
    """The path, once it is sure that a recipe can be written there. Raises InputError."""
    return check_target(path, (".json",))


def save_recipe(recipe: Recipe, path: str | Path) -> Recipe:
    """Write a recipe whole or not at all; returns the recipe as it is read from there. Raises InputError."""
    target = check_recipe_target(path)
    save_bytes(recipe.to_text().encode("utf-8"), target)
    return dataclasses.replace(recipe, source=str(target))
