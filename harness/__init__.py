"""Eyechart."""
