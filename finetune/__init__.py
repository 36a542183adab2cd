"""Fine-tuning in ten lines.

``python -m finetune fit`` (``__main__.py``) reads settings (``config.py``), opens the corpora, chooses the labelled clips and
their alphabet (``labels.py``), puts a CTC head on the encoder (``fit.py``), and trains a ``FinetuneTask`` (``task.py``): features
with some frames and channels hidden go through the encoder, and CTC (``loss.py``) compares its letters with the label. The
recogniser with the best held-out character error rate ends in ``RUN/recogniser``.
"""
