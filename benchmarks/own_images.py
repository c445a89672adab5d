"""Compare `clipscratch train own_images --dataset DIR` with the best of a small grid of options, on small datasets.

python -m benchmarks.own_images --data DATA --models MODELS --seeds 0 1 2

drawn     200 images of four classes (cup, fish, house, tree), drawn with PIL on cluttered backgrounds; 400 to measure.
cifar10   50 images of each of 4 classes of DATA/wds_vtab-cifar10; 400 of its test split to measure.
flickr8k  60 images with five captions each in a metadata.csv, of DATA/wds_flickr8k; 200 of its test split to measure.

A line of the grid changes one or two options of the recipe. All lines have the same towers, those of MODELS, the same
seeds and a test set that no run sees; the metric is top-1, or the mean of recall@5 in both directions.
"""

import csv
import random
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from modeling_clipscratch.cli.command_line import run_command
from modeling_clipscratch.data.dataset import ImageReader
from modeling_clipscratch.data.load import load_data
from modeling_clipscratch.evaluation.evaluate_dataset import evaluate_dataset
from modeling_clipscratch.evaluation.load_model import load_model
from modeling_clipscratch.training.recipe.recipe import parse_recipe
from modeling_clipscratch.training.run import train

from .reporting import machine, parser_of, print_table, save_figures

CLASSES = {  # polygons and ellipses in a square of side 2 around the origin
    "cup": [("polygon", [(-0.6, -0.6), (0.5, -0.6), (0.4, 0.7), (-0.5, 0.7)]), ("arc", [(0.2, -0.4), (0.9, 0.3)])],
    "fish": [("ellipse", [(-0.8, -0.4), (0.4, 0.4)]), ("polygon", [(0.3, 0), (0.9, -0.4), (0.9, 0.4)])],
    "house": [("rectangle", [(-0.6, -0.1), (0.6, 0.8)]), ("polygon", [(-0.8, -0.1), (0, -0.9), (0.8, -0.1)])],
    "tree": [("rectangle", [(-0.1, 0.1), (0.1, 0.9)]), ("polygon", [(-0.6, 0.3), (0, -0.9), (0.6, 0.3)])],
}
CIFAR_CLASSES = ("cat", "dog", "deer", "horse")
GRID = {
    "the recipe": [],
    "learning rate of 1e-3": ["--learning_rate", "1e-3"],
    "learning rate of 3e-2": ["--learning_rate", "3e-2"],
    "100 steps": ["--max_steps", "100"],
    "500 steps": ["--max_steps", "500"],
    "batch of 32": ["--global_batch_size", "32"],
    "weight decay of 1": ["--weight_decay", "1"],
    "first token": ["--text_pooling", "cls", "--vision_pooling", "cls"],
    "mean of tokens": ["--text_pooling", "mean", "--vision_pooling", "mean"],
    "features not normalised": ["--text_state_norm", "none", "--vision_state_norm", "none"],
    "last checkpoint": ["--load_best_model_at_end", "false"],
    "two blocks trained": ["--unfreeze_vision_layers", "2", "--tower_learning_rate", "1e-5"],
}


def draw(name: str, number: random.Random, edge: int = 160) -> Image.Image:
    """An object of a class, of random place, size, angle and colours, on a noisy background with other shapes."""
    colour = lambda: tuple(number.randrange(256) for _ in range(3))  # noqa: E731
    noise = np.random.default_rng(number.randrange(2**32)).normal(0, 25, (edge, edge, 3))
    height = np.linspace(0, 1, edge)[:, None, None]
    image = Image.fromarray((height * colour() + (1 - height) * colour() + noise).clip(0, 255).astype(np.uint8))
    canvas = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, size = number.randrange(edge), number.randrange(edge), number.randrange(10, 50)
        kind = number.choice(["ellipse", "rectangle", "line"])
        getattr(canvas, kind)([x, y, x + size, y + size], fill=colour())
    side = number.randrange(edge // 4, edge // 2)
    layer = Image.new("RGBA", (2 * side, 2 * side))
    canvas, ink = ImageDraw.Draw(layer), colour()
    for kind, points in CLASSES[name]:
        points = [(side + 0.7 * side * x, side + 0.7 * side * y) for x, y in points]
        if kind == "arc":
            canvas.arc(points, 0, 360, fill=ink, width=side // 10 + 1)
        else:
            getattr(canvas, kind)(points, fill=ink, outline=colour())
    layer = layer.rotate(number.uniform(-40, 40))
    image.paste(layer, (number.randrange(edge - side) - side // 2, number.randrange(edge - side) - side // 2), layer)
    return image


def drawn(folder: Path, data: Path) -> None:
    number = random.Random(0)
    for part, count in (("train", 50), ("test", 100)):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for index in range(count):
                draw(name, number).save(folder / part / name / f"{index}.png")


def cifar10(folder: Path, data: Path) -> None:
    for split, count in (("train", 50), ("test", 100)):
        rows = load_data(data / "wds_vtab-cifar10", splits=[split])[split]
        names, labels, images = rows.features["label"].names, rows["label"][:], ImageReader(rows)
        for name in CIFAR_CLASSES:
            (folder / split / name).mkdir(parents=True)
            for row in [row for row, label in enumerate(labels) if names[label] == name][:count]:
                images(row).save(folder / split / name / f"{row}.png")


def flickr8k(folder: Path, data: Path) -> None:
    for split, count in (("train", 60), ("test", 200)):
        rows = load_data(data / "wds_flickr8k", splits=[split])[split].select(range(count))
        (folder / split).mkdir(parents=True)
        images = ImageReader(rows)
        with (folder / split / "metadata.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "caption"])
            for row, captions in enumerate(rows["captions"][:]):
                images(row).save(folder / split / f"{row}.png")
                table.writerows([f"{row}.png", caption] for caption in captions)


def run(folder: Path, towers: list[str], words: list[str]) -> float:
    """Train on a dataset as the command line does, and return the metric on its test images."""
    output = folder / "run"
    shutil.rmtree(output, ignore_errors=True)
    own = ["--dataset", str(folder / "train"), "--output_dir", str(output), "--cache_dir", str(folder / "cache")]
    train(*parse_recipe(["own_images", *own, *towers, "--disable_tqdm", "true", *words]))
    data = load_data(folder / "test", validation_fraction=0)
    [rows] = data.values()
    metrics = evaluate_dataset(*load_model(output, "cpu"), rows, templates=data.templates).metrics
    directions = [f"{one}_recall@5" for one in ("image_to_text", "text_to_image")]
    return metrics["top1"] if "top1" in metrics else sum(metrics[name] for name in directions) / 2


def main(arguments: list[str]) -> None:
    parser = parser_of("own_images")
    parser.add_argument("--data", type=Path, required=True, help="folder of wds_vtab-cifar10 and wds_flickr8k")
    parser.add_argument("--models", type=Path, required=True, help="folder of the two towers")
    parser.add_argument("--parts", nargs="+", default=["drawn", "cifar10", "flickr8k"])
    parser.add_argument("--lines", nargs="+", default=list(GRID), choices=list(GRID))
    parser.add_argument("--seeds", nargs="+", default=["0"])
    options = parser.parse_args(arguments)
    print(machine())
    towers = [f"--text_tower={options.models / 'minilm-l6-distilbert'}"]
    towers += [f"--vision_tower={options.models / 'vit-tiny-patch16-224'}"]
    figures = {}
    with tempfile.TemporaryDirectory() as place:
        for part in options.parts:
            {"drawn": drawn, "cifar10": cifar10, "flickr8k": flickr8k}[part](Path(place, part), options.data)
            figures[part] = {}
            for line in options.lines:
                values = [run(Path(place, part), towers, [*GRID[line], "--seed", seed]) for seed in options.seeds]
                figures[part][line] = values
                print(part, line, *(f"{100 * value:.1f} %" for value in values), flush=True)
    rows = [
        [line, *(f"{100 * np.mean(figures[part][line]):.1f} %" for part in options.parts)] for line in options.lines
    ]
    print_table(["mean over seeds", *options.parts], rows)
    save_figures(options.output / "own_images.json", figures)


if __name__ == "__main__":
    run_command(main)
