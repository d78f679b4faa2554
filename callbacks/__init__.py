"""Callbacks that monitor a run and save its results.

They use the base classes in `lightning_modules/core/` and do not depend on any system.
"""
