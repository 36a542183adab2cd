"""Measurements: the demo, and speed and quality side by side with peers. Each is runnable alone."""
