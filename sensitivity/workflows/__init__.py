"""Complete jobs for one kind of model, ready to run."""
