"""``lalia finetune check``: what is wrong with labels, before it costs a night. ``verdict.py`` runs the checks."""
