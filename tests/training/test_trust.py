"""Check that no code of a stranger's tokenizer or run folder runs, is saved or is pushed."""

import json

import pytest
from transformers import TokenizersBackend, VisionTextDualEncoderProcessor


class StrangeTokenizer(TokenizersBackend):
    _auto_class = "AutoTokenizer"  # as `trust_remote_code=True` leaves it


@pytest.fixture
def trainer_of(make_trainer, word_processor, tmp_path):
    """A user's own (tokenizer class, changes of tokenizer_config.json) -> trainer."""

    def make(tokenizer_class=TokenizersBackend, **changes):
        word_processor.save_pretrained(tmp_path / "own")
        path = tmp_path / "own" / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        tokenizer = tokenizer_class.from_pretrained(tmp_path / "own")
        processor = VisionTextDualEncoderProcessor(word_processor.image_processor, tokenizer)
        other = make_trainer()
        return type(other)(other.model, other.args, train_dataset=other.train_dataset, processing_class=processor)

    return make


@pytest.mark.parametrize("references", [{"AutoTokenizer": [None, "stranger.Model"]}, ["stranger.Model", None]])
def test_trainer_saves_no_code_reference_of_a_user_s_tokenizer(trainer_of, references, tmp_path):
    trainer_of(auto_map=references).save_model(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert "auto_map" not in saved and saved["pad_token"] == "[PAD]"


def test_trainer_refuses_a_tokenizer_whose_code_would_have_to_travel(trainer_of):
    with pytest.raises(ValueError, match=r"StrangeTokenizer is a class with code of its own \(.*test_trust\), which"):
        trainer_of(StrangeTokenizer)


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("tokenizer_config.json", '{"auto_map": {"AutoTokenizer": "stranger.Model"}}', "names code that is not"),
        ("stranger.py", "", "is not ClipScratch's code, and would be pushed"),
    ],
)
def test_trainer_pushes_no_folder_with_a_stranger_s_code(hub, make_trainer, tmp_path, file, text, sentence):
    trainer = make_trainer(hub_model_id="you/clip")
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / file).write_text(text)
    with pytest.raises(ValueError, match=f"run/{file} {sentence}"):
        trainer.push_to_hub()
    assert not hub.repos
