"""Continuation: the song goes on, from what it was and from what the network learned.

What any model that carries a continuation network gives (``songcast.load("models/train")``, or a
registered version)::

    model.continue_song(song, seconds=5.0, temperature=1.0, seed=0) -> Song
    model.stream_song(song, seconds=5.0, temperature=1.0, seed=0) -> Iterator[int16 blocks]

``continue_song`` returns the continuation alone, at the song's own rate and channels.
``stream_song`` checks its arguments and primes on the song at once, then yields blocks
(frames, channels) int16 as they are made; together they are the same samples. Both raise
``ContinuationError`` (a ``SongcastError``, one line): for ``seconds`` not above 0 or beyond
3600, a temperature below 0, a song that is too short, a model that cannot continue songs.
"""
