"""What people look at: the report, its figures and the summary in the terminal."""
