"""What the widgets have in common."""
