"""The ``check`` command: runs each step of a pull on this node and says how to fix what fails."""
