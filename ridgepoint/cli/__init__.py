"""The command line: parses, calls one public function, prints."""

from ridgepoint.cli.main import main

__all__ = ["main"]
