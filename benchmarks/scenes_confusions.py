"""Count which words a model trained on scenes confuses on unseen combinations.

python benchmarks/scenes_confusions.py --model runs/scenes
"""

import argparse
from collections import Counter

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.data.images.preprocess import Preprocess
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.data.sources.built_in import combinations
from modeling_clipscratch.evaluation.encode import encode_images, encode_texts
from modeling_clipscratch.evaluation.load_model import load_model


def difference(right, wrong) -> str:
    """Name the difference of two combinations in the fewest words.

    >>> from modeling_clipscratch.data.sources.built_in import Combination
    >>> a, b = ("red", "ring"), ("blue", "ring")
    >>> difference(Combination("left", (a, b)), Combination("left", (b, a)))
    'the order of the objects only'
    >>> difference(Combination("left", (a, b)), Combination("left", (("red", "cross"), b)))
    'one shape'
    """
    if len(right.objects) != len(wrong.objects):
        return "the number of objects"
    if sorted(right.objects) == sorted(wrong.objects):
        return "the relation only" if right.objects == wrong.objects else "the order of the objects only"
    pairs = list(zip(right.objects, wrong.objects, strict=True))
    colours = sum(one[0] != other[0] for one, other in pairs)
    shapes = sum(one[1] != other[1] for one, other in pairs)
    if right.relation != wrong.relation or colours + shapes > 2:
        return "three words or more"
    return {(1, 0): "one colour", (0, 1): "one shape"}.get((colours, shapes), "two words")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="scenes_confusions.py")
    parser.add_argument("--model", required=True)
    options = parser.parse_args(arguments)
    model, processor = load_model(options.model)
    rows, known = load_data("scenes", splits=["test"])["test"], combinations()["test"]
    images = encode_images(model, Preprocess(processor.image_processor), rows)[0]
    texts = encode_texts(model, processor.tokenizer, [captions[0] for captions in rows["captions"]])
    best = (texts @ images.T).argmax(1).tolist()
    mistakes = Counter(difference(known[i], known[j]) for i, j in enumerate(best) if i != j)
    swapped = Counter()
    for i, j in enumerate(best):
        if i != j and difference(known[i], known[j]) in ("one colour", "one shape"):
            [(one, other)] = [
                (a, b)
                for x, y in zip(known[i].objects, known[j].objects, strict=True)
                for a, b in zip(x, y, strict=True)
                if a != b
            ]
            swapped["/".join(sorted((one, other)))] += 1
    print(f"first captions whose best image is another one: {sum(mistakes.values())} of {len(rows)}")
    for what, count in mistakes.most_common():
        print(f"  {count:4d}  {what}")
    print("single words confused: " + ", ".join(f"{pair} {n}" for pair, n in swapped.most_common(6)))


if __name__ == "__main__":
    run_command(main)
