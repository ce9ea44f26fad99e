"""What would the cameras have seen, and what was really there? A procedural world, ray cast through the true lenses."""
