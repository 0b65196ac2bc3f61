"""What was measured, against each claim of the paper and of the article about it."""
