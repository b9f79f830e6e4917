"""Engines: prompts and visual tokens in, answers out."""
