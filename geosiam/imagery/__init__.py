"""Read two scenes as aligned, masked and normalized blocks."""
