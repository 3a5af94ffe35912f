"""Forecasters: from the past of a song alone, a distribution for each next sample.

Int16 samples enter block by block; logistic mixtures, means in LSB and bits per sample leave.
"""
