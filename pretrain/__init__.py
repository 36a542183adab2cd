"""Pretraining in ten lines.

``lalia pretrain fit`` (``__main__.py``) reads settings (``config.py``), opens the corpora, and trains a ``PretrainTask``
(``task.py``): the encoder turns waves into features, spans of them are hidden (``masking.py``), the quantizer makes targets of
the hidden ones, and the encoder must tell each target from distractors (``loss.py``). The encoder ends in ``RUN/encoder``.
"""
