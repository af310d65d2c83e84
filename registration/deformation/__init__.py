"""Parts of the deformable method: descriptors, the discrete search, and the descent."""
