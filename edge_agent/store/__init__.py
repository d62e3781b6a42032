"""Nothing lost: what is asked and what is answered, kept on the disk."""
