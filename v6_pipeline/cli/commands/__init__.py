"""One module per command or group of commands: it reads options, calls the packages below and shows the result.

Does not belong here: rules, and access to broker, lake or state other than through those packages.
"""
