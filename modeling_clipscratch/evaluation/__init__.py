"""Measure models on datasets: embeddings, metrics with intervals, tables and reports. Knows no Trainer."""
