from ..rooms import show

__all__ = show(
    __name__,
    recipe=["parse_recipe", "read_recipe"],
    arguments=["ClipScratchTrainingArguments", "DataArguments", "ModelArguments"],
    build=["build_model"],
    word_tokenizer=["word_tokenizer"],
    trainer=["ClipScratchTrainer"],
    run=["train"],
)
