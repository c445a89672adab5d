"""Train a model from a recipe, as `clipscratch train` does: python run_train.py RECIPE [--field value ...]"""

from modeling_clipscratch.cli.main import main

if __name__ == "__main__":
    main("train")
