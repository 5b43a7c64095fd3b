"""What `make bench` measures: verification and whole QC cycles, beside bare Keras and the published way of working."""
