"""What authors of guests use to test them."""
