"""What a bundle is worth: its figures as a document for programs, and as a page for people."""
