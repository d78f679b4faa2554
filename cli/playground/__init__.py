"""Parts of `playground.py`: the page, its panels, and the checkpoints that it offers."""
