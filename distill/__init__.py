"""Distillation: a recogniser becomes a small student that runs without PyTorch.

- ``fit.py``: one distillation run, from a teacher and corpora to ``RUN/recogniser``; ``task.py``: its training and validation
  step; ``loss.py``: its losses; ``config.py``: all settings
- ``teacher.py``: the teachers' outputs as targets; ``frame_matching.py``: in the student's frames; ``stored_outputs.py``:
  computed once for every student
- ``student.py``: the initial student, cut from the teacher's layers or another encoder; ``pseudo_labels.py``: labels found by the
  teacher's beam search with a language model
- ``prune.py``: learns which heads, units and channels to remove, removes them and distils the rest
- ``export.py``: writes the int8 student if it keeps its budget; ``quantize.py``: int8, in the file and while training;
  ``measure.py``: error rates, speed and memory
"""
