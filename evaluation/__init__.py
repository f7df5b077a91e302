"""Evaluates speech: judges, measures, tables and pages. Needs the extra [eval], except for pages."""
