"""Serve one model over HTTP: MLflow's scoring requests, streamed continuations and a web page.

Requests with encoded songs enter; JSON with forecasts, scores and audio, or a wav stream, leaves.
"""
