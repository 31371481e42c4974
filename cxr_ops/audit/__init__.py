"""What is on record and what follows from it: entries, state, what must fit what, the rules of promotion. Pure."""
