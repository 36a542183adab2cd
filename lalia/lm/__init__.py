"""Language models: n-grams and LSTMs over letters or words, built from text; ARPA and KenLM files."""
