"""A module per command or group of commands. They read options, call the packages below, and show what comes back."""
