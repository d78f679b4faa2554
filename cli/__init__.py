"""Programs: options, discovery of recipes and classes, training, sampling and evaluation."""
