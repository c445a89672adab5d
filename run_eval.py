"""Measure models, as `clipscratch eval` does: python run_eval.py --model DIR --dataset NAME [--output_dir DIR]"""

from modeling_clipscratch.cli.main import main

if __name__ == "__main__":
    main("eval")
