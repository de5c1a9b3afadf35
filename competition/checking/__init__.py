"""What is wrong with a submission's zip, whoever made it, and how to mend it."""
