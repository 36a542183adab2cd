"""Data checks before fine-tuning (``lalia finetune check``): finds and fixes problems of labels, audio and splits."""
