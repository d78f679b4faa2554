"""Decoding of next-token logits: filters, sampling, beam search and a key-value cache."""
