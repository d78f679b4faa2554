"""Errors, files and images: what every package uses; imports nothing of this project."""
