"""Benchmarks of decoding: forced alignment, language models, long files."""
