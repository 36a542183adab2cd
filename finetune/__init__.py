"""Fine-tuning: a pretrained encoder and labelled audio become a CTC recogniser.

- ``fit.py``: one run, from settings and corpora to ``RUN/recogniser``; ``task.py``: its training and validation step;
  ``config.py``: its settings; ``presets.py``: settings chosen by hours of labels and encoder size
- ``model.py``: the recogniser that a run starts from (encoder, vocabulary, head, adapter)
- ``blank_alarm.py``: restarts a run that outputs only blanks
- ``check/``: data checks before training; ``lm.py``: a language model for a run; ``evaluate.py``: the evaluation of a run

The CTC loss is in ``lalia/models/recogniser.py``, because distillation uses it too.
"""
