"""What all later numbers rest on, proved on one batch before the scan."""
