"""Result files to tables, verdicts, figures and pages. Nothing is trained here, and no number is typed."""
