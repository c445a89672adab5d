"""Decode, resize, augment and mix images."""
