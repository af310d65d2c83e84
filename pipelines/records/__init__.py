"""The documents that cases and batch runs leave: result.json, course.json, night.json and others, with their schemas."""
