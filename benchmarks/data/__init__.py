"""Benchmarks of data: reading, preparation, duplicates, voice activity detection, loaders."""
