"""Generation of token sequences: sampling, filters of logits, beam search, key-value cache."""
