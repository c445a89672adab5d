"""Rank labels for images, as `clipscratch classify` does."""

from modeling_clipscratch.cli.main import main

if __name__ == "__main__":
    main("classify")
