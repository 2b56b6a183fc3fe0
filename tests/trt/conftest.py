"""The stand-ins are not tests."""

collect_ignore = ["doubles"]
