"""Align long recordings with their texts: read the text, find it in the audio, cut scored pieces. Torch-free."""
