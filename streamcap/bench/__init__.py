"""Benchmarks of the captioner's stages, compared with other runtimes and with the limits of the machine.

`decode` and `encode` need only torch, transformers and numpy.
"""
