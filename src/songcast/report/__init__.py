"""Output for people: the terminal, the result table, the figures and the listening page.

It takes metrics/evaluation.json and the WAV files of listening/ and writes plots/report/ and
report.html, a single file that contains sound, figures, style and player (wavesurfer.js, see
vendor/README.md) and makes no network requests.
"""
