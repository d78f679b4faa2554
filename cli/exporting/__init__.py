"""Exports of checkpoints: files without pickle, model cards, and uploads."""
