"""Evaluates speech: judges, measures, tables and pages. Checks corpora. Judges and measures need the extra [eval]."""
