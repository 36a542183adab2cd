"""Fine-tuning in ten lines.

``lalia finetune fit`` (``__main__.py``) reads settings (``config.py``), opens the corpora, chooses the labelled clips and
their alphabet (``labels.py``), fills in what the user did not say by the hours of labels (``presets.py``), makes a recogniser of
what the run starts from (``starts.py``), and trains a ``FinetuneTask`` (``fit.py``, ``task.py``): features with some frames and
channels hidden go through the encoder, and CTC (``loss.py``) compares its letters with the label. A run that falls silent is
mended (``alarm.py``), and a clip that makes the loss no number is named (``blame.py``). The recogniser with the best held-out
character error rate ends in ``RUN/recogniser``; ``fold`` takes one language out of a recogniser with adapters. What a run left
(``trained.py``: its recogniser, a student of it that needs no torch, its corpora) gets a language model (``lm.py``) and is judged
(``evaluate.py``).
"""
