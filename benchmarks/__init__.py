"""Benchmarks: the demo, and measurements of speed and quality beside other toolkits. Each runs alone."""
