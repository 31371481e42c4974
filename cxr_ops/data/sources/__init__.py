"""Where radiographs come from: one file a source, its docstring the data sheet."""
