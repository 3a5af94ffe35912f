"""Measures of forecasts and continuations on the held-out passages of songs.

Models and prepared songs enter; JSON-able measures and int16 tracks for listening leave.
"""
