"""Train a CLIP of your own. Importing this registers `ClipScratchModel` with transformers' auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification

from .hub.configuration_clipscratch import ClipScratchConfig
from .hub.modeling_clipscratch import ClipScratchModel, ClipScratchOutput
from .rooms import show

AutoConfig.register("clipscratch", ClipScratchConfig)
AutoModel.register(ClipScratchConfig, ClipScratchModel)
AutoModelForZeroShotImageClassification.register(ClipScratchConfig, ClipScratchModel)

__version__ = "0.1.0"
__all__ = ["ClipScratchConfig", "ClipScratchModel", "ClipScratchOutput"]
__all__ += show(__name__, data=["load_data"], training=["ClipScratchTrainer", "ClipScratchTrainingArguments"])
