"""Pretraining of an encoder on unlabelled audio by wav2vec 2.0's contrastive objective (Baevski et al. 2020).

``lalia pretrain fit`` (``__main__.py``) reads the settings (``config.py``) and ``fit.py`` opens the corpora and trains a
``PretrainTask`` (``task.py``): the encoder turns waves into features, spans of them are masked (``lalia/data/batch.py``), the
quantizer makes a target of each masked frame, and the encoder must pick it among distractors (``loss.py``). ``guard.py`` watches
the run. The result is ``RUN/encoder``.
"""
