"""The embedded suite: a procedural world, its data sets, its zoo of encoders and its language model.

Decision record 0002 says what was chosen, by which argument, and before which result.
"""
