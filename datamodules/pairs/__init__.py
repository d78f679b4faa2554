"""Data modules of images of two domains, paired or unpaired."""
