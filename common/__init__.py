"""Utilities for errors, files and images; this package imports no other one of this project."""
