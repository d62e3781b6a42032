"""One load generator for all rigs, with one ledger of what was asked and answered."""
