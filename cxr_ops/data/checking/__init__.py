"""Untrusted bytes: decoded in processes whose death is survivable, checked before they enter."""
