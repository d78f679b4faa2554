"""What is looked at and kept while training. Callbacks know only what `lightning_modules/base.py`
promises.
"""
