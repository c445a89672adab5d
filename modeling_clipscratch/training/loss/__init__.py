"""The exact loss over the batch of all processes."""
