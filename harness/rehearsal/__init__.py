"""The main suite in miniature: its code from end to end, on data made here. Its numbers mean nothing.

Repositories shaped as the hub's are drawn from the procedural world: importing, preparing and measuring
them needs no network and no photograph.
"""
