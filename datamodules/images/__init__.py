"""Data modules of single images, with labels if available."""
