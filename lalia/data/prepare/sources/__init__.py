"""Sources of `lalia prepare`: folders, tables, annotations, hub datasets, the demo. Start at ``opening.py``."""
