"""The command `clipscratch`."""
