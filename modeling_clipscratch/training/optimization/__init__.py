"""Optimizers, averages, arithmetic and checks of a step."""
