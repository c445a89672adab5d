"""Cached features of frozen towers, and the batches that are made with them."""
