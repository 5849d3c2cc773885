"""The command line: `hmq-lab search`, `train`, `figures`, `sweep`, `pack`, `export` and more."""
