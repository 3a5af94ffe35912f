"""Songs in files: any common audio format in, the popular ones out, and resampling.

Enter: paths of audio files, or int16 samples (frames, channels) with a sample rate in Hz. Leave:
``Song`` objects and int16 blocks in a stream, with a list of damage; or audio files.
"""
