"""Flex statements: the broker's own account of past days."""
