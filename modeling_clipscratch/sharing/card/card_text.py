"""The facts of a trained folder go in; the sentences, lists and examples of its card come out."""

from urllib.parse import quote

from ...data.sources.digits import CLASS_NAMES, TEMPLATES
from ...evaluation.report.markdown import Markdown, code, escaped

_MOST_LABELS = 10  # in a snippet
_LOSSES = {
    "softmax": "softmax over the batch, both ways; whatever means the same counts as right, in equal shares",
    "diagonal": "softmax over the batch, both ways; only a picture's own caption counts as right",
    "sigmoid": "pairwise sigmoid with a learned bias",
}
# Pictures that everybody can draw, and texts of which the first is right.
_ZERO = (
    'picture = Image.new("RGB", (64, 64))\nImageDraw.Draw(picture).ellipse((16, 4, 48, 60), outline="white", width=11)'
)
_SHAPES = """picture = Image.new("RGB", (32, 32), (40, 40, 40))
ImageDraw.Draw(picture).ellipse((3, 11, 13, 21), fill=(206, 38, 38))
ImageDraw.Draw(picture).rectangle((18, 12, 26, 20), fill=(48, 92, 236))"""
_BOAT = """picture = Image.new("RGB", (640, 480), "skyblue")  # or Image.open("photo.jpg")
ImageDraw.Draw(picture).rectangle((0, 280, 640, 480), fill="navy")
ImageDraw.Draw(picture).polygon([(180, 250), (460, 250), (400, 330), (240, 330)], fill="brown")
ImageDraw.Draw(picture).polygon([(320, 60), (320, 240), (440, 240)], fill="white")"""
_OF_SHAPES = ["a red circle to the left of a blue square", "a blue square to the left of a red circle"]
_OF_SHAPES += ["a green ring above a white cross"]
_OF_A_BOAT = ["a boat with a white sail on blue water", "a dog running through the snow", "two people at a table"]


def describe_tower(facts: dict, side: str) -> dict[str, str]:
    """`what` the tower is, an id of the Hub as a link, and the `training` it got."""
    config = facts["config"]
    tower = getattr(config, f"{side}_config")
    layers = tower.to_dict().get(tower.attribute_map.get("num_hidden_layers", "num_hidden_layers"))
    what = f"{tower.model_type}, " + (
        f"{layers} layer{'s' if layers > 1 else ''} of width {tower.hidden_size}"
        if layers
        else f"{tower.hidden_size} wide"
    )
    source = facts["run"]["towers"].get(side, {})
    name = source.get("name")
    origin = {
        "hub": f"from {_hub_link(name)}",
        "local": Markdown(f"from weights called {code(str(name))}".replace("|", "\\|")),
        "scratch": "from scratch",
    }.get(source.get("source"))
    what = what if origin is None else Markdown(f"{escaped(what)}, {origin}")
    return {"what": what, "training": _training(facts, side)}


def _hub_link(name, kind=""):
    return Markdown(f"[{escaped(str(name))}](https://huggingface.co/{kind}{quote(str(name))})")


def _training(facts, side):
    config, recipe = facts["config"], facts["recipe"]
    total = facts["parameters"][side]
    if not getattr(config, f"freeze_{side}"):
        return f"{total:,} parameters, all trained"
    learned = facts["run"]["trained_parameters"].get(side)
    count = "" if not learned else f" ({learned:,} trained)"
    if layers := getattr(config, f"unfreeze_{side}_layers"):
        return f"{total:,} parameters, frozen but for the last {layers} layers{count}"
    if rank := recipe.get(f"{side}_lora_rank"):
        return f"{total:,} parameters, frozen but for adapters (LoRA) of rank {rank}, merged in{count}"
    return f"{total:,} parameters, frozen"


def describe_loss(config) -> str:
    """The loss in words."""
    return _LOSSES[config.loss]


def describe_data(facts: dict) -> dict:
    """`link`, `rows` (split -> count), `kind`, `class_names`, `templates`, `captions`; `None` for what is not known."""
    data = facts["run"]["dataset"]
    name = data.get("name") or facts["recipe"].get("dataset")
    link = {
        "hub": _hub_link(name, "datasets/"),
        "built-in": {
            "digits": Markdown("`digits`, 1,797 handwritten digits of 8x8 pixels (UCI, by way of scikit-learn)"),
            "scenes": Markdown("`scenes`, drawn pictures of two or three coloured shapes (built into ClipScratch)"),
        }.get(name),
    }.get(data.get("source"), name and code(name))
    kind = data.get("kind") or next(
        ("class" if entry["task"] == "zero_shot" else "caption" for entry in facts["measured"]), None
    )
    return {
        "name": name,
        "source": data.get("source"),
        "link": link,
        "revision": data.get("revision"),
        "kind": kind,
        "rows": data.get("rows", {}),
        "streamed": data.get("streamed", False),
        **{key: data.get(key) for key in ("class_names", "templates", "captions")},
    }


def sample(facts: dict) -> dict:
    """For the snippets: `picture` (code that draws one), `texts`, or `labels` and `template`, and whether that is
    `plain` enough for the `str.format` of transformers' pipeline."""
    data = describe_data(facts)
    if data["kind"] == "class" and (data["class_names"] or data["name"] == "digits"):
        template = (data["templates"] or TEMPLATES)[0]
        labels = list(data["class_names"] or CLASS_NAMES)[:_MOST_LABELS]
        picture = _ZERO if data["name"] == "digits" else _BOAT
        plain = template.count("{") == template.count("}") == template.count("{}") == 1
        return {"picture": Markdown(picture), "labels": labels, "template": template, "plain": plain, "texts": None}
    picture, texts = (_SHAPES, _OF_SHAPES) if data["name"] == "scenes" else (_BOAT, _OF_A_BOAT)
    return {"picture": Markdown(picture), "labels": texts, "template": "{}", "plain": True, "texts": texts}


def describe_budget(facts: dict) -> str | None:
    """Pictures seen, time, hardware and arithmetic, as far as they are known."""
    run, versions = facts["run"], facts["versions"]
    parts = []
    if run["images_seen"]:
        parts.append(f"{run['images_seen']:,} pictures seen in {run['steps']:,} steps")
    if run["seconds"]:
        parts.append(f"{_duration(run['seconds'])} of training with its evaluations")
    if parts and "device" in versions:  # alone it would be a budget of nothing
        processes = f"{run['processes']} processes on " if run["processes"] > 1 else ""
        cores = f", {run['cores']} cores" if run["cores"] else ""
        parts.append(f"{processes}{versions['device']}{cores}")
    if run["precision"]:
        parts.append(f"arithmetic in {run['precision']}")
    return "; ".join(parts) or None


def _duration(seconds):
    """
    >>> _duration(42.3), _duration(930.0), _duration(9000.0)
    ('42 s', '15.5 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def limits(facts: dict) -> list[str]:
    """What the model is not good for, as far as the folder tells."""
    data, config, run = describe_data(facts), facts["config"], facts["run"]
    found = []
    rows = data["rows"].get("train")
    seen = f"learned from {rows:,} pictures" if rows else "learned from one data set"
    if run["steps"]:
        found.append(
            f"**Small.** {sum(facts['parameters'].values()):,} parameters that {seen}; a CLIP for the open world sees "
            "hundreds of millions. Pictures unlike those it learned from get an answer too, and it means little."
        )
    if data["kind"] == "class":
        many = f"{len(data['class_names'])} class names" if data["class_names"] else "the class names of its data"
        found.append(
            f"**Words.** It learned {many}, in a few prompts. Other classes, attributes, counts and places in the "
            "picture were never told apart in training."
        )
    elif data["kind"] == "caption":
        found.append(
            "**Words.** It learned from captions that say what is to be seen; names, written text, counts and fine "
            "differences were hardly part of them."
        )
    own_words = run["towers"].get("text", {}).get("source") == "scratch" and not facts["recipe"].get("tokenizer")
    if own_words and facts["vocabulary"]:
        found.append(
            f"**Vocabulary.** The text tower is from scratch and knows the {facts['vocabulary']:,} words and marks of "
            "its training captions; any other word reads as unknown."
        )
    found.append(
        "**Probabilities** are shares among the labels that you give: they sum to one even where none of them fits."
    )
    if facts["image_size"]:
        found.append(
            f"**Resolution.** It sees {facts['image_size']}x{facts['image_size']} pixels; what is not to be recognised "
            "at that size is not there for it."
        )
    found.append(
        "**People and safety.** Whatever is one-sided in its data is one-sided in the model. It was not tested for "
        "fairness; do not let it decide about people, nor where a mistake does harm."
    )
    bases = [tower for tower in run["towers"].values() if tower["source"] != "scratch"]
    if bases or not run["steps"] or config.freeze_text or config.freeze_vision:
        found.append("**Licence.** Weights of pretrained towers keep the licence they came with, and data their terms.")
    return list(map(Markdown, found))
