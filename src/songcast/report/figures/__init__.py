"""The figures of the report: arrays and plain values in, matplotlib ``Figure`` objects out.

``files.py`` draws all of them into plots/report; nothing else writes files or uses pyplot.
Passages are (frames, channels) in LSB (int16 units), int16 or float, finite, with at least one
frame. A title states the result that the figure shows.
"""

import os

# Jupyter and Colab name a backend that only their own environment has. Figures are files here.
os.environ["MPLBACKEND"] = "agg"
