"""Data: NIH folders, generated radiographs, the manifest, tar shards, validation, the split and the packed cache."""
