"""What the programs share: options, recipes, classes by name, and data of a configuration."""
