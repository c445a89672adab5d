"""A model and a folder of pictures go in; an index of them, and the pictures nearest to a text or picture, come out."""
