"""Corpora as batches. One file per source; nothing here knows a model."""
