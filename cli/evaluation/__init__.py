"""Metrics of generated images: distances, fidelity, Parzen windows, ranking of captions."""
