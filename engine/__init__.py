"""How the parts turn together: the demonstration that goes once round the data engine, and its report."""
