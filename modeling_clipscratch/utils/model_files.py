"""Recognise the files of a folder or repository that load a model and its processor."""

CODE = "_clipscratch.py"  # ends the names of the files with the model's code
_NAMES = {
    "config.json", "model.safetensors", "processor_config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt",
    "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
}  # fmt: skip


def is_of_a_model(path: str) -> bool:
    """Return whether a file, by its path in a folder or repository, is one of those that load the model."""
    shard = path.startswith("model") and path.endswith((".safetensors", ".safetensors.index.json"))
    return "/" not in path and (shard or path in _NAMES or path.endswith(CODE))
