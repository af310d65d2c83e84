"""DICOM out."""
