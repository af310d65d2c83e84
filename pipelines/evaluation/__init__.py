"""Contours compared with reference contours."""
