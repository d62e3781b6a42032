"""Pages for people: one look, figures and tables, without scripts, and nothing is loaded from anywhere."""
