"""Utilities for errors, files and images; they import no other package of this project."""
