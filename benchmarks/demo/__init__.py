"""The demo: real speech in five languages becomes an Italian recogniser that runs on a laptop."""
