"""Configuration of a `ClipScratchModel`."""

import math

from transformers import AutoConfig, PretrainedConfig
from transformers.utils.versions import require_version

from .errors_clipscratch import ClipScratchError

# Older versions know the weights of a ViT by other names only, and would initialise those that they miss at random.
require_version("transformers>=5.9", "A ClipScratch folder needs it: pip install -U transformers")

POOLINGS = ("cls", "mean", "cls+mean", "tower")
STATE_NORMS = ("none", "l2")
PROJECTIONS = ("linear", "mlp", "linear+norm")
MAX_LOGIT_SCALE = math.log(100)  # Radford et al. 2021, section 2.5
LOSSES = ("softmax", "sigmoid", "diagonal")
_ALLOWED = {
    "projection": PROJECTIONS,
    "loss": LOSSES,
    **dict.fromkeys(("text_pooling", "vision_pooling"), POOLINGS),
    **dict.fromkeys(("text_state_norm", "vision_state_norm"), STATE_NORMS),
}
CODE_KEYS = ("auto_map", "custom_pipelines")  # where transformers looks for code to run
AUTO_MAP = {  # the `auto_map` of a saved folder
    "AutoConfig": "configuration_clipscratch.ClipScratchConfig",
    "AutoModel": "modeling_clipscratch.ClipScratchModel",
    "AutoModelForZeroShotImageClassification": "modeling_clipscratch.ClipScratchModel",
}


class ClipScratchConfig(PretrainedConfig):
    """Configuration of a `ClipScratchModel`: two towers, and how they are pooled, projected, frozen and compared.

    Args:
        text_config (`PretrainedConfig` or `dict`): Config of the text tower, or its dict with `model_type`. Default:
            DistilBERT-base.
        vision_config (`PretrainedConfig` or `dict`): Config of the vision tower, or its dict with `model_type`.
            Default: ViT-B/16 for images of 224 pixels.
        projection_dim (`int`, defaults to 512): Width of the shared space.
        projection (`str`, defaults to `"linear"`): Head of each tower: `linear` (one matrix, no bias), `mlp` (two
            matrices with a GELU between) or `linear+norm` (one matrix with bias, then a LayerNorm).
        text_pooling (`str`, defaults to `"cls"`): How tokens become one feature vector: `cls` (the first token),
            `mean` (over the attention mask), `cls+mean` (both, concatenated) or `tower` (the tower's own
            `pooler_output`).
        vision_pooling (`str`, defaults to `"cls"`): The same for images; `mean` is over all tokens.
        text_state_norm (`str`, defaults to `"none"`): Normalisation of the pooled features before the projection:
            `none` or `l2` (unit length).
        vision_state_norm (`str`, defaults to `"none"`): The same for images.
        freeze_text (`bool`, defaults to `True`): Keep the text tower's weights, in `eval()` and without gradients.
        freeze_vision (`bool`, defaults to `False`): Keep the vision tower's weights.
        unfreeze_text_layers (`int`, defaults to 0): Number of last blocks of a frozen text tower that are trained,
            with what follows them.
        unfreeze_vision_layers (`int`, defaults to 0): The same for the vision tower.
        loss (`str`, defaults to `"softmax"`): `softmax` (soft targets over all positives), `sigmoid` (pairwise, with a
            learned bias) or `diagonal` (the pair of a row is its only positive).
        logit_scale_init_value (`float`, defaults to 2.6592): Natural logarithm of the initial inverse temperature.
        logit_scale_max (`float`, defaults to ln 100): Natural logarithm that the learned scale is clamped to.
        logit_bias_init_value (`float`, defaults to -10): Initial bias of the sigmoid loss.
        initializer_range (`float`, *optional*): Standard deviation of new projection weights. Default: input width
            ** -0.5.
        class_names (`list[str]`, *optional*): Classes that the model was trained on, in label order.
        templates (`list[str]`, *optional*): Prompts of the classes in training, with `{}` for the class.

    Raises:
        ClipScratchError: If a choice is not among those above, or layers of a tower that is not frozen are unfrozen.

    Source: Radford et al. 2021, arXiv 2103.00020; bias and sigmoid loss: Zhai et al. 2023, arXiv 2303.15343.

    >>> config = ClipScratchConfig(text_pooling="cls+mean", projection_dim=64)
    >>> config.text_feature_dim, config.vision_feature_dim, config.projection_dim
    (1536, 768, 64)
    """

    model_type = "clipscratch"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}

    # transformers makes a dataclass of the class, whose arguments are these.
    text_config: PretrainedConfig | dict | None = None
    vision_config: PretrainedConfig | dict | None = None
    projection_dim: int = 512
    projection: str = "linear"
    text_pooling: str = "cls"
    vision_pooling: str = "cls"
    text_state_norm: str = "none"
    vision_state_norm: str = "none"
    freeze_text: bool = True
    freeze_vision: bool = False
    unfreeze_text_layers: int = 0
    unfreeze_vision_layers: int = 0
    loss: str = "softmax"
    logit_scale_init_value: float = 2.6592
    logit_scale_max: float = MAX_LOGIT_SCALE
    logit_bias_init_value: float = -10.0
    initializer_range: float | None = None
    class_names: list[str] | None = None
    templates: list[str] | None = None

    def __post_init__(self, **kwargs):
        for side, default in (("text", "distilbert"), ("vision", "vit")):
            tower = getattr(self, f"{side}_config") or {"model_type": default}
            if isinstance(tower, dict):
                setattr(self, f"{side}_config", AutoConfig.for_model(**tower))
            if getattr(self, f"unfreeze_{side}_layers") and not getattr(self, f"freeze_{side}"):
                raise ClipScratchError(
                    f"unfreeze_{side}_layers={getattr(self, f'unfreeze_{side}_layers')} with freeze_{side}=False: the "
                    f"whole tower is trained already; set freeze_{side} to True, or leave unfreeze_{side}_layers out."
                )
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ClipScratchError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}.")
        kwargs.pop("without_code", None)  # of `to_dict`
        super().__post_init__(**kwargs)

    def to_dict(self):
        """Serialize the config, without references to a tower's own code, which would run with the model's."""
        output = without_foreign_code(super().to_dict())
        # With trust_remote_code=False AutoTokenizer reads config.json as a plain config. It warns of our model type
        # unless a part of the file has a plain config's, which is empty.
        output["without_code"] = {"model_type": ""}
        return output

    @property
    def text_feature_dim(self):
        """Width D of the pooled features of a text."""
        return tower_width(self.text_config) * (2 if self.text_pooling == "cls+mean" else 1)

    @property
    def vision_feature_dim(self):
        """Width D of the pooled features of an image."""
        return tower_width(self.vision_config) * (2 if self.vision_pooling == "cls+mean" else 1)


ClipScratchConfig.register_for_auto_class()  # save_pretrained then copies the code into the folder
CHOICES = set(ClipScratchConfig.__annotations__) - {"text_config", "vision_config"}


def tower_width(config):
    """Return the width of a tower's tokens; `ClipScratchError` if its config has no such number."""
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise ClipScratchError(
            f"a tower of type {config.model_type} has no hidden_size, one width for all its tokens; choose another, "
            "for example a ViT, DINOv2, BERT or DistilBERT."
        )
    return config.hidden_size


def without_foreign_code(settings):
    """Return a copy of JSON-like settings without references to code other than `AUTO_MAP`, at any depth.

    >>> without_foreign_code({"auto_map": {"AutoModel": "you/repository--code.Model"}, "dim": 16})
    {'dim': 16}
    """
    if type(settings) is list:
        return [without_foreign_code(value) for value in settings]
    if type(settings) is not dict:
        return settings
    references = settings.get("auto_map")
    known = references if isinstance(references, dict) else {}
    own = {auto: reference for auto, reference in AUTO_MAP.items() if known.get(auto) == reference}
    kept = {
        name: without_foreign_code(value)
        for name, value in settings.items()
        if name not in CODE_KEYS or isinstance(value, int)  # a token's number in a vocabulary
    }
    return kept | ({"auto_map": own} if own else {})
