"""Generated radiographs, for demonstrations and tests. They show nobody."""
