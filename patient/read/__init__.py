"""DICOM in."""

import logging
import warnings

from pydicom import config

# Reading takes files as they are; what is wrong with them is said by our own errors, in which no header text stands.
config.settings.reading_validation_mode = config.IGNORE
# What pydicom warns of and logs quotes the header and the file's name, and would stand in a service's log.
warnings.filterwarnings("ignore", module="pydicom")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
