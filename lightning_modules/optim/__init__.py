"""Optimizers and schedules that PyTorch lacks."""
