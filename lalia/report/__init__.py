"""HTML reports of runs, evaluations and corpora: self-contained pages with charts, audio players and marked errors."""
