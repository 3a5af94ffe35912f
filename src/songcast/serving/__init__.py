"""Serving: the model that MLflow loads, and how it is packed."""
