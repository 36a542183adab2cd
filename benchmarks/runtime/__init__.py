"""Benchmarks of students: size, speed, streaming, the server."""
