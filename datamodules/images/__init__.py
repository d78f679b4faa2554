"""Single images, with labels where there are any."""
