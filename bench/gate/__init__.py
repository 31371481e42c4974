"""Simulation of the gate: what it promotes by mistake, what it holds back by mistake, and what other rules do."""
