"""Speaker diarization: who speaks when, torch-free."""
