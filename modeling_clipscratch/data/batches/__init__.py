"""Make batches of image-text pairs of datasets and of streams."""
