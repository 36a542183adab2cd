"""Language models: n-grams and an LSTM over letters, made from text, read and written as ARPA and KenLM files."""
