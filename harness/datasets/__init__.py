"""Real datasets: what each is, how it becomes a prepared folder, and what can be wrong with it."""
