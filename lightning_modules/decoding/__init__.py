"""From next-token logits to text: filters, sampling, beam search, key-value cache."""
