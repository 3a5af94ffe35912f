"""Inspection of recordings: properties, damage, duplicates, and moments that surprise a forecaster.

Enter: audio files, and the fingerprints and splits of prepared songs. Leave: the data report of
prepare (metrics/data.json) and the events of `songcast inspect`.
"""
