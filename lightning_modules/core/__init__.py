"""Base classes of all systems, averaging of weights, seeding, and loading of checkpoints."""
