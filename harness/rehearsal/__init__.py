"""Miniature repositories shaped as the hub's, drawn from the procedural world.

They let the whole road of the real datasets be walked without a network and without a photograph: import,
prepare, measure. No number made from them says anything about an encoder.
"""
