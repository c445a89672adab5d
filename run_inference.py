"""Use a model, as `clipscratch classify`, `index` and `search` do: python run_inference.py COMMAND [...]"""

from modeling_clipscratch.cli.main import main

if __name__ == "__main__":
    main("classify", "index", "search")
