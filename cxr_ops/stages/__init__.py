"""One module a stage, each with `run(...)`: read files, call a pure function, write files."""
