"""What a wheel carries besides code: models, and the needle sets of the repository."""
