"""Prepared songs: int16 arrays on disk with their splits in time.

Audio files go in (``decoding``); memory maps and ``songs.json`` come out (``corpus``).
"""
