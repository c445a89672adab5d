"""The fields of a recipe, their checks, and how a recipe is read."""
