"""Train a model from a recipe or from Python."""
