"""What a purge does to files: whom it is about, a batch or event without the patient, and a quarantine without."""
