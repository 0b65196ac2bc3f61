"""The kernels beside what a user would write today, timed side by side."""
