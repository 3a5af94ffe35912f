"""The listening report: one self-contained page to hear, see and compare what models predict.

``build.write_report`` writes it. The page asks nobody for anything: sound, pictures, style and
the player (wavesurfer.js, see vendor/README.md) are inside.
"""
