"""Run transformers' common tests, which every model of its repository passes, on our classes."""

import inspect
import sys
import unittest

import pytest

from modeling_clipscratch import ClipScratchConfig, ClipScratchModel
from tests.hub.fetch_common_tests import folder

if not (folder() / "__init__.py").is_file():
    pytest.skip(
        "transformers' common tests are not there: python -m tests.hub.fetch_common_tests", allow_module_level=True
    )

sys.path.insert(0, str(folder().parent))
from transformers import DistilBertConfig, ViTConfig  # noqa: E402
from transformers_tests.test_configuration_common import ConfigTester  # noqa: E402
from transformers_tests.test_modeling_common import (  # noqa: E402
    ModelTesterMixin,
    floats_tensor,
    ids_tensor,
    random_attention_mask,
)

BATCH, TOKENS, SIZE, WIDTH, LAYERS, HEADS, WORDS = 12, 7, 16, 32, 2, 4, 99


class TextTester:
    """What the common tests ask of the text side."""

    batch_size, seq_length, hidden_size = BATCH, TOKENS, WIDTH
    num_hidden_layers, num_attention_heads = LAYERS, HEADS
    is_training = False

    def prepare_config_and_inputs_for_common(self):
        return text_config(), {
            "input_ids": ids_tensor([BATCH, TOKENS], WORDS),
            "attention_mask": random_attention_mask([BATCH, TOKENS]),
        }


class VisionTester:
    """What the common tests ask of the image side."""

    batch_size, image_size, hidden_size = BATCH, SIZE, WIDTH
    num_hidden_layers, num_attention_heads = LAYERS, HEADS
    is_training = False

    def prepare_config_and_inputs_for_common(self):
        return vision_config(), {"pixel_values": floats_tensor([BATCH, 3, SIZE, SIZE])}


class ClipScratchTester:
    """What they ask of the model, as CLIP's own tester gives it; nothing is frozen, for the tests of gradients."""

    is_training = True

    def __init__(self, parent):
        self.parent, self.batch_size = parent, BATCH
        self.text_model_tester, self.vision_model_tester = TextTester(), VisionTester()

    def get_config(self):
        return ClipScratchConfig(
            text_config=text_config(), vision_config=vision_config(), projection_dim=64, freeze_text=False
        )

    def prepare_config_and_inputs_for_common(self):
        _, texts = self.text_model_tester.prepare_config_and_inputs_for_common()
        _, images = self.vision_model_tester.prepare_config_and_inputs_for_common()
        return self.get_config(), {**texts, **images}


class TestCommon(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (ClipScratchModel,)
    additional_model_inputs = ["pixel_values"]
    test_resize_embeddings = False
    test_attention_outputs = False
    _is_composite = True

    def setUp(self):
        self.model_tester = ClipScratchTester(self)
        self.config_tester = ConfigTester(self, config_class=ClipScratchConfig, has_text_modality=False)

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        return {**inputs_dict, "return_loss": True} if return_labels else inputs_dict

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_reverse_loading_mapping(self):
        # A ViT alone is written under its older names; in a ClipScratch folder every weight keeps its own name.
        super().test_reverse_loading_mapping(check_keys_were_modified=False)

    # As in CLIP's own tests: the outputs of a model of two towers hold the towers' outputs.

    @unittest.skip("Hidden states are the towers'; get_text_features and get_image_features are tested for them.")
    def test_hidden_states_output(self): ...

    @unittest.skip("Hidden states and attentions are the towers'.")
    def test_retain_grad_hidden_states_attentions(self): ...

    @unittest.skip("Two towers have no inputs_embeds of their own.")
    def test_inputs_embeds(self): ...


def text_config():
    sizes = {"dim": WIDTH, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 37}
    return DistilBertConfig(vocab_size=WORDS, max_position_embeddings=64, **sizes)


def vision_config():
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "intermediate_size": 37}
    return ViTConfig(image_size=SIZE, patch_size=4, **sizes)


def test_the_common_tests_are_there_in_number():
    """A mixin that lost its tests would pass."""
    assert sum(name.startswith("test_") for name, _ in inspect.getmembers(TestCommon, inspect.isfunction)) > 100
