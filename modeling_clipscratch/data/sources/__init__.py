"""Find the splits of a dataset: one module for each form of data."""
