"""Images of two domains, paired or unpaired."""
