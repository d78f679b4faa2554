"""What the programs do: options, discovery of recipes and classes, training, sampling, scoring."""
