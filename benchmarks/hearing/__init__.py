"""Benchmarks of speakers and tags."""
