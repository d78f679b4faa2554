"""Scores of generated images: distances, fidelity, Parzen windows, ranking by captions."""
