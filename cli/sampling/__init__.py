"""Sample from a checkpoint; one file per modality."""
