"""Metrics and baselines.

The functions take tensors, arrays or texts and depend on no system and no data set. Each value has
a signature: a string that records how the value was computed.
"""
