"""Reports: one self-contained HTML page for every run, with curves, players and coloured errors."""
