"""Generate samples from a checkpoint; each modality, such as text or images, has one file."""
