"""Many trials of one question: their space, their search, their ledger, and who executes them."""
