"""The registered model ``songcast``: versions, aliases, the gate, model cards, reproduction.

In go bundles, their evaluation and their lineage; out come versions that can be loaded by URI,
compared, promoted, traced to their songs and built again.
"""
