"""Nothing lost: what is asked and answered, on its way to the disk and to the broker."""
