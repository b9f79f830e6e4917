"""The main suite in miniature: its code from end to end, on data made here. Its numbers mean nothing."""
