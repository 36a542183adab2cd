"""Alignment of long recordings: known times, damaged texts, other aligners, hours."""
