"""Single images, with labels if available."""
