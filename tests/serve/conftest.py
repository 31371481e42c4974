"""A signed model directory, and the server of it as a process."""

from served import server, signed  # noqa: F401 - fixtures
