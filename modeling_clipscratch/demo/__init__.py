"""A model and, if there is one, an index of pictures go in; a page in the browser to try them comes out."""
