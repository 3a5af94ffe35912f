"""Runs in MLflow: each stage logs one, below a parent run for the whole pipeline.

In go params, metrics, files and bundles; out come run ids. Logging never stops a training: the
stage register rebuilds or completes a run from the outputs of its stage.
"""
