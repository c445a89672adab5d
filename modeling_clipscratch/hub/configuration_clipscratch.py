"""Configuration of a `ClipScratchModel`."""

import inspect
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
        ClipScratchError: If a choice is not among those above, or a number is out of its range.

    Source: Radford et al. 2021, arXiv 2103.00020; bias and sigmoid loss: Zhai et al. 2023, arXiv 2303.15343.

    >>> config = ClipScratchConfig(text_pooling="cls+mean", projection_dim=64)
    >>> config.text_feature_dim, config.vision_feature_dim, config.projection_dim
    (1536, 768, 64)
    """

    model_type = "clipscratch"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}
    has_no_defaults_at_init = False

    def __init__(
        self,
        text_config=None,
        vision_config=None,
        *,
        projection_dim=512,
        projection="linear",
        text_pooling="cls",
        vision_pooling="cls",
        text_state_norm="none",
        vision_state_norm="none",
        freeze_text=True,
        freeze_vision=False,
        unfreeze_text_layers=0,
        unfreeze_vision_layers=0,
        loss="softmax",
        logit_scale_init_value=2.6592,
        logit_scale_max=MAX_LOGIT_SCALE,
        logit_bias_init_value=-10.0,
        initializer_range=None,
        class_names=None,
        templates=None,
        **kwargs,
    ):
        self.text_config = _tower_config(text_config, "text_config", "distilbert")
        self.vision_config = _tower_config(vision_config, "vision_config", "vit")
        self.projection_dim = projection_dim
        self.projection = projection
        self.text_pooling = text_pooling
        self.vision_pooling = vision_pooling
        self.text_state_norm = text_state_norm
        self.vision_state_norm = vision_state_norm
        self.freeze_text = freeze_text
        self.freeze_vision = freeze_vision
        self.unfreeze_text_layers = unfreeze_text_layers
        self.unfreeze_vision_layers = unfreeze_vision_layers
        self.loss = loss
        self.logit_scale_init_value = logit_scale_init_value
        self.logit_scale_max = logit_scale_max
        self.logit_bias_init_value = logit_bias_init_value
        self.initializer_range = initializer_range
        self.class_names = class_names
        self.templates = templates
        self._check()
        kwargs.pop("without_code", None)  # of `to_dict`
        super().__init__(**kwargs)

    def _check(self):
        choices = {"projection": PROJECTIONS, "loss": LOSSES}
        for side in ("text", "vision"):
            choices |= {f"{side}_pooling": POOLINGS, f"{side}_state_norm": STATE_NORMS}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ClipScratchError(f"{name}={getattr(self, name)!r} is not one of {', '.join(allowed)}.")
        for side in ("text", "vision"):
            count = getattr(self, f"unfreeze_{side}_layers")
            if count < 0:
                raise ClipScratchError(f"unfreeze_{side}_layers={count} is not a number of layers; choose 0 or more.")
            if count and not getattr(self, f"freeze_{side}"):
                raise ClipScratchError(
                    f"unfreeze_{side}_layers={count} with freeze_{side}=False: the whole tower is trained already; "
                    f"set freeze_{side} to True, or leave unfreeze_{side}_layers out."
                )
        if self.projection_dim < 1:
            raise ClipScratchError(
                f"projection_dim={self.projection_dim} is not a positive number of dimensions; choose 512."
            )
        if self.logit_scale_init_value > self.logit_scale_max:
            raise ClipScratchError(
                f"logit_scale_init_value={self.logit_scale_init_value} is above logit_scale_max="
                f"{self.logit_scale_max:.4f}; choose a smaller one (both are natural logarithms)."
            )

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
CHOICES = {  # the arguments other than the towers' configs
    name
    for name, parameter in inspect.signature(ClipScratchConfig).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
}


def _tower_config(config, name, default_type):
    if config is None:
        return AutoConfig.for_model(default_type)
    if isinstance(config, dict):
        if "model_type" not in config:
            raise ClipScratchError(f"{name} has no model_type; name one, for example {default_type!r}.")
        settings = dict(config)
        return AutoConfig.for_model(settings.pop("model_type"), **settings)
    return config


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
