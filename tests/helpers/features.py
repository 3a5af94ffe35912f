"""Features of songs, computed."""

from songcast.training.feature_cache import compute_features, song_features


def open_features(*songs_and_settings, engine="local", **more):
    """As ``song_features``, and compute them."""
    features = song_features(*songs_and_settings, **more)
    compute_features(features, engine)
    return features
