"""The adapter between encoder and language model: module, packed data, training."""
