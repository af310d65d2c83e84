"""DICOM in."""

from pydicom import config

# Reading takes files as they are; what is wrong with them is said by our own errors, in which no header text stands.
config.settings.reading_validation_mode = config.IGNORE
