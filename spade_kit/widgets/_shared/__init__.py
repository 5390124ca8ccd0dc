"""Code shared by the widgets."""
