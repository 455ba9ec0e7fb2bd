"""Makes tables, verdicts, figures and pages from result files. Nothing is trained here."""
