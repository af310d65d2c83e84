"""One fraction with its plan, from DICOM to DICOM; and two images registered."""
