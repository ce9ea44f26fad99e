"""What stood around the road while the clip was driven? Depth from motion, fused: points, mesh, voxels, road."""
