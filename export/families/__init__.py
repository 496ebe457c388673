"""What an export of each family has of its own; the families are those of `videosdgx.families.FAMILIES`."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from videosdgx.families import FAMILIES

if TYPE_CHECKING:
    from export.run.recipe import Recipe


def recipes(family: str) -> Mapping[str, "Recipe"]:
    """The recipes of a family's engines, by component; imports torch and diffusers.

    Raises:
        KeyError: there is no such family.
    """
    found: Mapping[str, Recipe] = import_module(f"export.families.{FAMILIES[family].name}.recipe").RECIPES
    return found
