"""Where labels come from: whole clips, past and future, become a label layer."""
