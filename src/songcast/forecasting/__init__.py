"""Forecasters: anything that gives a distribution for the next sample."""
