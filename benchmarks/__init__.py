"""Benchmarks: the demo, and measurements of speed and quality compared with other toolkits. Each is a separate program."""
