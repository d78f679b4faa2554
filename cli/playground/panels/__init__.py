"""Panels of the playground: each shows one use of a system, such as sampling or translation."""
