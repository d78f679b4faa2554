"""Base classes of all systems, averaged weights, seeding, and reading of checkpoints."""
