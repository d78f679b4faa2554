"""Evaluation of generated images: distances, fidelity, Parzen estimates, caption ranking."""
