"""Runs the code of packages in processes of their own, which hold pixels and nothing that the code must not see."""
