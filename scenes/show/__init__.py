"""How do labels look in the pictures, from above and as voxels?"""
