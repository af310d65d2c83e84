"""The ground: geometry, volumes, series, structure sets, dose; DICOM in and out; one error tree."""
