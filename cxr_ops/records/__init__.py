"""What crosses from one stage to the next: small frozen records, one file a stage."""
