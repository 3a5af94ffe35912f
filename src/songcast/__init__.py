"""songcast learns songs from their raw amplitude and predicts what comes next."""

__version__ = "0.1.0"
