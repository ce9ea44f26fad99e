"""How good it is: one label layer measured against another."""
