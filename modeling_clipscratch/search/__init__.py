"""Search a folder of images by text or image."""
