"""Embeddings, or a model with rows, go in; metrics, tables and pictures come out. Knows no Trainer."""
