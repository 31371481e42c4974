"""Pure statistics and the gate's rule: arrays and records in, values out. No files, clock or global random state."""
