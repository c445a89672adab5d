"""Optimizers, the moving average of the weights, arithmetic and attention kernels."""
