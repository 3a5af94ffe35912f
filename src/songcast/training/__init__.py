"""Fit the networks: feature cache, batches, fit loop, checkpoints, validation.

Prepared songs and settings go in; trained weights and one row of metrics per epoch come out.
"""
