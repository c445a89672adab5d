"""Build models from options, with their processors, and refuse what does not fit."""

import logging
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from PIL import Image
from transformers import AutoModel, AutoProcessor, ResNetConfig, ResNetModel, ViTImageProcessorPil

from modeling_clipscratch.data.batches.captions import TokenTable
from modeling_clipscratch.training.recipe.arguments import ModelArguments
from modeling_clipscratch.training.towers.build import build_model, check_towers
from modeling_clipscratch.training.towers.word_tokenizer import word_tokenizer
from tests.tiny_towers import tiny_config

SCRATCH = {
    "text_tower": "distilbert", "text_hidden_size": 16, "text_num_layers": 1, "text_num_heads": 2,
    "vision_tower": "vit", "vision_hidden_size": 16, "vision_num_layers": 1, "vision_num_heads": 2,
    "image_size": 8, "patch_size": 4, "projection_dim": 16,
}  # fmt: skip
CAPTIONS = ["A red square.", "a blue circle, left"]


def build(**changes):
    return build_model(ModelArguments(**{**SCRATCH, **changes}), CAPTIONS)


def test_options_reach_the_model_and_its_processor():
    model, processor = build(
        projection="mlp", text_pooling="mean", vision_pooling="cls+mean", text_state_norm="l2", loss="sigmoid",
        freeze_text=False, freeze_vision=True, logit_scale_init_value=1.0, max_length=9,
    )  # fmt: skip
    config = model.config
    assert (config.projection, config.text_pooling, config.vision_pooling) == ("mlp", "mean", "cls+mean")
    assert (config.text_state_norm, config.vision_state_norm, config.loss) == ("l2", "none", "sigmoid")
    assert (config.freeze_text, config.freeze_vision, config.projection_dim) == (False, True, 16)
    assert model.logit_scale.item() == 1.0
    assert config.text_config.max_position_embeddings == 9 == processor.tokenizer.model_max_length
    assert config.text_config.vocab_size == len(processor.tokenizer)
    assert config.text_config.pad_token_id == processor.tokenizer.pad_token_id
    assert processor.image_processor.size["height"] == 8


@pytest.mark.parametrize(("text", "vision"), [("bert", "dinov2"), ("distilbert", "clip_vision_model")])
def test_towers_from_scratch_have_the_sizes_asked_for(text, vision):
    model, _ = build(text_tower=text, vision_tower=vision, text_num_layers=3, vision_num_layers=2)
    assert model.config.text_config.num_hidden_layers == 3 and model.config.text_config.hidden_size == 16
    assert model.config.vision_config.num_hidden_layers == 2 and model.config.vision_config.patch_size == 4


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image_size": None}, "vision_tower=vit is from scratch and needs image_size"),
        ({"image_size": 30}, "image_size=30 is not a multiple of patch_size=4; choose 28"),
        ({"image_size": 3}, "image_size=3 is not a multiple of patch_size=4; choose 4"),
        ({"vision_init": "mimetic", "vision_hidden_size": 18}, "vision_hidden_size is a multiple of 4, not for a vit"),
        ({"vision_num_heads": 3}, "a hidden size of 16 is not a multiple of 3 heads; choose 15"),
        ({"text_num_heads": 5}, "a hidden size of 16 is not a multiple of 5 heads; choose 15"),
        ({"text_pooling": "max"}, "text_pooling='max' is not one of"),
        ({"text_tower": "t5"}, "a model of type 't5' is an encoder with a decoder"),
        ({"tokenizer": "nobody/no-such-tokenizer"}, "tokenizer 'nobody/no-such-tokenizer' could not be loaded"),
        ({"vision_tower": "nobody/no-such-tower"}, "vision tower 'nobody/no-such-tower' could not be loaded"),
        ({"vision_tower": "swin"}, "vision_tower=swin has stages of several widths"),
        ({"vision_tower": "convnext"}, "vision_tower=convnext has stages of several widths"),
    ],
)
def test_sizes_and_names_that_do_not_fit_are_refused(monkeypatch, changes, sentence):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=sentence):
        build(**changes)


def test_pretrained_folders_bring_their_tokenizer_and_image_size(tmp_path):
    first, processor = build(freeze_text=False)
    for side, part in (("text", processor.tokenizer), ("vision", processor.image_processor)):
        getattr(first, f"{side}_model").save_pretrained(tmp_path / side)
        part.save_pretrained(tmp_path / side)
    folders = {"text_tower": str(tmp_path / "text"), "vision_tower": str(tmp_path / "vision"), "image_size": None}
    model, own = build(**folders)
    for side in ("text_model", "vision_model"):
        saved = getattr(first, side).state_dict()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in getattr(model, side).state_dict().items())
    assert own.tokenizer(CAPTIONS)["input_ids"] == processor.tokenizer(CAPTIONS)["input_ids"]
    assert own.image_processor.size["height"] == 8
    model.save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()  # it may be published
    for change, sentence in (
        ({"image_size": 16}, "image_size=16: the tower .* takes 8 pixels; leave image_size out or choose 8"),
        ({"vision_init": "mimetic"}, "vision_init=mimetic is not for a pretrained tower"),
        ({"max_length": 65}, "max_length=65 is more than the text tower reads; choose at most 64"),
    ):
        with pytest.raises(ValueError, match=sentence):
            build(**{**folders, **change})


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_saved_processor_reads_images_of_every_mode(tmp_path, mode):
    _, processor = build()
    processor.save_pretrained(tmp_path)
    saved = AutoProcessor.from_pretrained(tmp_path)
    assert saved(images=Image.new(mode, (9, 12)), return_tensors="pt")["pixel_values"].shape == (1, 3, 8, 8)


def test_pretrained_tower_without_one_width_is_refused(tmp_path):
    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a tower of type resnet has no hidden_size"):
        build(vision_tower=str(tmp_path), image_size=None)


@pytest.mark.parametrize("end", ["[CLS]", None])
def test_tokenizer_without_a_token_to_pad_with_takes_that_of_the_end(tmp_path, end):
    tokenizer = word_tokenizer(CAPTIONS)
    tokenizer.pad_token, tokenizer.eos_token = None, end
    tokenizer.save_pretrained(tmp_path)
    if end is None:
        with pytest.raises(ValueError, match="has no token to pad with; give it a pad_token and save it"):
            build(tokenizer=str(tmp_path))
    else:
        _, processor = build(tokenizer=str(tmp_path))
        assert processor.tokenizer.pad_token == end


@pytest.mark.parametrize("text", ["bert", "roberta"])
def test_longest_text_fits_into_a_tower_from_scratch(text):
    model, processor = build(text_tower=text, max_length=9)
    assert processor.tokenizer.model_max_length == 9
    words = processor.tokenizer(["red " * 20], truncation=True, return_tensors="pt")
    assert words["input_ids"].shape == (1, 9)
    assert model.get_text_features(**words).pooler_output.isfinite().all()


@pytest.fixture
def folder_of(tmp_path):
    """Model type, changes of its config -> folder of a tiny random tower, an image processor and a tokenizer."""

    def save(kind, *, processor=None, **changes):
        folder = tmp_path / kind
        AutoModel.from_config(tiny_config(kind, **changes)).save_pretrained(folder)
        word_tokenizer(CAPTIONS).save_pretrained(folder)
        processor = processor or ViTImageProcessorPil(size={"height": 32, "width": 32})
        processor.save_pretrained(folder)
        return str(folder)

    return save


def assert_refused_early(sentence, **changes):
    with pytest.raises(ValueError, match=sentence) as error:
        check_towers(ModelArguments(**{**SCRATCH, **changes}))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("side", "kind"), [("text", "vit"), ("vision", "bert")])
def test_a_tower_for_the_other_side_is_refused_before_data_are_read(side, kind, folder_of):
    sentence = f"{side} tower '.*{kind}': a model of type '{kind}' reads .* and a {side} tower is an"
    assert_refused_early(sentence, **{f"{side}_tower": folder_of(kind)})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"text_tower": "clip"}, "'clip' is a model of several towers; name the type of its text tower, 'clip_text_mo"),
        ({"vision_tower": "clip"}, "'clip' is a model of several towers; .* vision tower, 'clip_vision_model'"),
        ({"text_tower": "siglip"}, "model_type 'siglip_text_model' is not an encoder that AutoModel knows"),
        ({"text_tower": "vit"}, "a model of type 'vit' reads pixel_values"),
        ({"vision_tower": "bert"}, "a model of type 'bert' reads input_ids"),
        ({"vision_tower": "siglip2_vision_model"}, "needs pixel_attention_mask, spatial_shapes too"),
        ({"vision_tower": "timesformer"}, "a timesformer cannot be the vision tower, since it does not read pixel"),
        (
            {"text_tower": "fnet", "text_pooling": "mean"},
            "gives a text other features where its batch holds a longer one",
        ),
        ({"text_tower": "gpt2"}, "text_pooling 'cls': a gpt2 reads from left to right"),
        ({"vision_tower": "siglip_vision_model"}, "has no class token.*; choose mean, or tower where it pools"),
        (
            {"vision_tower": "vit_mae"},
            "a vit_mae (gives one image different features|has no class token)",
        ),  # before 5.10
    ],
)
def test_a_type_from_scratch_that_cannot_work_is_refused_before_data_are_read(changes, sentence):
    assert_refused_early(sentence, **changes)


@pytest.mark.parametrize("kind", ["siglip_vision_model", "swin", "ijepa"])
def test_a_vision_tower_without_a_class_token_is_pooled_otherwise(kind, folder_of):
    tower = {"vision_tower": folder_of(kind), "image_size": None}
    assert_refused_early(f"vision_pooling 'cls': a {kind} has no class token", **tower)
    assert_refused_early(f"vision_pooling 'cls\\+mean': a {kind} has no class", **tower, vision_pooling="cls+mean")
    model, _ = build(**tower, vision_pooling="mean")
    assert model.config.vision_pooling == "mean"


def test_a_tower_that_changes_its_weights_when_it_reads_is_refused(folder_of):
    assert_refused_early("a rwkv cannot be the text tower, since it changes its", text_tower=folder_of("rwkv"))


def test_a_tokenizer_with_more_tokens_than_the_tower_is_refused(folder_of, tmp_path):
    word_tokenizer([" ".join(f"word{number}" for number in range(60))]).save_pretrained(tmp_path / "words")
    tower = {"text_tower": folder_of("bert"), "tokenizer": str(tmp_path / "words")}
    assert_refused_early(
        r"tokenizer \(.*words\) has tokens up to number 62, and the text tower's table holds 40", **tower
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *[(name, {}) for name in ("Idefics3", "Qwen2VL", "Siglip2", "Pixtral")],
        ("EfficientNet", {"size": {"height": 32, "width": 32}}),
    ],
)
def test_an_image_processor_of_another_kind_is_refused_before_data_are_read(name, settings, folder_of):
    try:
        processor = getattr(transformers, f"{name}ImageProcessorPil")(**settings)
    except ImportError:
        pytest.skip("this transformers makes it with torchvision only")
    assert_refused_early(
        "image processor .*(does not make one image|does more to pixels|gives images of differing shapes)",
        vision_tower=folder_of("vit", processor=processor), image_size=None,
    )  # fmt: skip


def test_an_image_processor_whose_library_is_missing_is_named(folder_of):
    folder = Path(folder_of("vit"))
    (Path(folder) / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchImageProcessor"}')
    assert_refused_early("image processor '.*vit' cannot be used .*; install what is missing", vision_tower=folder)


def test_adapters_in_a_tower_are_named(folder_of):
    peft = pytest.importorskip("peft")
    folder = folder_of("bert")
    tower = AutoModel.from_pretrained(folder)
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["query"]), tower)
    tower.save_pretrained(folder)
    assert_refused_early("holds weights with adapters .* that are not merged; call merge_and_unload", text_tower=folder)


def test_a_text_without_a_token_is_refused(tmp_path):
    tokenizer = word_tokenizer(CAPTIONS)
    tokenizer.backend_tokenizer.post_processor = None
    with pytest.raises(ValueError, match="the text '' has no token"):
        TokenTable(["a red square", ""], tokenizer, 8)


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"[]"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_damaged_file_of_a_tower_is_named(folder_of, name, content):
    folder = Path(folder_of("vit"))
    (folder / name).write_bytes(content)
    assert_refused_early(f"{name} is damaged .*; copy ", vision_tower=str(folder))


def test_model_without_a_word_tokenizer_is_built_once(folder_of):
    text, vision = folder_of("bert"), folder_of("vit")
    options = {**SCRATCH, "text_tower": text, "vision_tower": vision, "image_size": None}
    model, _ = check_towers(ModelArguments(**options))
    assert model.config.text_config.model_type == "bert"
    assert check_towers(ModelArguments(**SCRATCH)) is None


def test_checking_leaves_the_seed_and_the_log_as_they_are(caplog):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    with caplog.at_level(logging.INFO, logger="modeling_clipscratch"):
        check_towers(ModelArguments(**SCRATCH))
    assert torch.rand(1) == expected and not caplog.records
