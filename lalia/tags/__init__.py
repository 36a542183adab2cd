"""Taggers without torch: labels of audio files, their time lines, and commands in a stream."""
