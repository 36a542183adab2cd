"""Sources of `lalia prepare`: folders, tables, annotations, hub datasets, the demo. ``opening.py`` chooses one."""
