"""How well normal and anomalous are told apart, and how sure that is."""
