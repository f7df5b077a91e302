"""How good speech is: judges, measures, tables and pages. Needs the extra [eval], except for pages."""
