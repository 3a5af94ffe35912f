"""Prepared songs, int16 arrays on disk with their splits in time; augmentation for continuations.

Audio files go in (``decoding``); memory maps and ``songs.json`` come out (``corpus``).
"""
