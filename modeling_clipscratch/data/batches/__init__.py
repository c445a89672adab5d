"""Batches of image-text pairs, from datasets and from streams."""
