"""What anatomy and Hounsfield units alone give with certainty."""

from contour.anatomy.engine import AnatomyEngine

__all__ = ["AnatomyEngine"]
