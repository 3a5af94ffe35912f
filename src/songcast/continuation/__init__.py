"""Generate the continuation of a song after its end.

A song (int16 frames and a sample rate) and a trained continuation model enter; blocks of new int16
frames at the same rate and with the same channels leave. ``model.ContinuationModel`` is the entry
point.
"""
