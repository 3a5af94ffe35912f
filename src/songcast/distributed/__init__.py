"""Run work in several processes or on a Ray cluster, with the same results as in one process.

Functions and items go in, results come out; ``data_parallel`` shares each step of a training.
"""
