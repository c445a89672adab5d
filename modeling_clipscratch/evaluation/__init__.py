"""Measure models on datasets: embeddings, metrics with intervals, tables and reports. Knows no Trainer."""

from ..rooms import show

__all__ = show(
    __name__,
    loading=["load_model"],
    evaluate_dataset=["Result", "evaluate_dataset"],
    evaluate_models=["differences_to_first", "evaluate_models", "text_summary"],
    encode=["encode_images", "encode_texts"],
    rank_labels=["rank_labels"],
    outcomes=["ClassOutcomes", "RetrievalOutcomes", "plain_metrics"],
    intervals=["Difference", "confidence_intervals", "over_seeds", "paired_differences"],
    tables=["markdown_table", "text_table", "write_metrics"],
    report=["write_report"],
    save=["save_embeddings", "save_predictions"],
    metrics=["metric_path"],
)
