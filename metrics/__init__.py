"""Metrics and baselines, each with a signature that states how the value was computed.

They take tensors, arrays or texts and depend on no system and no data set.
"""
