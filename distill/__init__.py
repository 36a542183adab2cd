"""Distillation in ten lines.

``lalia distill fit`` (``__main__.py``) reads settings (``config.py``), opens teacher and corpora (``material.py``), cuts a
student out of the teacher's own layers (``student.py``, ``cutting.py``), and trains a ``DistillTask`` (``task.py``): the teacher
hears the clean clip, the student the same clip with spans hidden, and the student must say what the teacher says and think what
it thinks (``loss.py``), and say what the labels say where there are some. The student with the best held-out character error
rate ends in ``RUN/recogniser`` (``fit.py``). Clips are joined to the runtime's windows for the student; what clips without a
label say may be searched for once under a language model (``pseudo.py``); and with ``--qat`` the student learns in the rounded
numbers of its int8 file (``fake_int8.py``).

``lalia distill prune`` learns which heads, units and channels the teacher can spare (``gates.py``), cuts them out and heals
the rest by distillation (``prune.py``).

``lalia distill export`` turns it into one ONNX file (``graph.py``), quantizes that (``quantize.py``), runs the file itself on
held-out audio (``measure.py``) and writes the student folder only if it keeps its budget (``budget.py``, ``sensitivity.py``,
``export.py``).
"""
