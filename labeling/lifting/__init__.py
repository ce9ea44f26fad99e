"""How do rectangles in pictures become objects in space, when nobody has a single 3D label?"""
