"""Where the ledger's entries stand, and the chain that they form there."""
