"""Optimizers, the moving average of the weights, arithmetic, sharding and the values of a step."""
