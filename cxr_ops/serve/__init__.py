"""The server of a signed model: pictures in, probabilities, flags and receipts out.

directory   reads a model directory whose signature was checked, and nothing of any other
engine      decodes pictures in processes that may die, scores them in batches in the package's own process
web         HTTP: limits on size, time and load, health, readiness and metrics
"""
